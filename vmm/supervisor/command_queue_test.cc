#include "vmm/supervisor/command_queue.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/supervision_table.h"

namespace bulkhead::vmm {
namespace {

using Urgency = Attention::Urgency;

class CommandQueueTest : public testing::Test {
 protected:
  // Whether there is a demand of at least that urgency that was not taken.
  bool Demands(Urgency least) {
    return Attention::Interruptible(*attention_, least, [] {}).interrupted();
  }
  static SupervisorCommand Command(SupervisionEvent event, std::string by = "a client") {
    SupervisorCommand command;
    command.event = event;
    command.by = std::move(by);
    return command;
  }

  std::shared_ptr<Attention> attention_ = *Attention::Create();
  CommandQueue queue_{attention_};
};

TEST_F(CommandQueueTest, CommandsAreTakenInTheirOrder) {
  EXPECT_FALSE(queue_.Take().has_value());
  queue_.Submit(Command(SupervisionEvent::kStop, "first"));
  queue_.Submit(Command(SupervisionEvent::kStart, "second"));
  EXPECT_EQ(queue_.Take()->by, "first");
  const auto second = queue_.Take();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->by, "second");
  EXPECT_EQ(second->event, SupervisionEvent::kStart);
  EXPECT_FALSE(queue_.Take().has_value());
}

TEST_F(CommandQueueTest, OnlyCommandsThatAStartDoesNotServeInterruptIt) {
  for (const auto event : {SupervisionEvent::kReset, SupervisionEvent::kStart}) {
    attention_->Take();
    queue_.Submit(Command(event));
    EXPECT_TRUE(Demands(Urgency::kNews));
    EXPECT_FALSE(Demands(Urgency::kCommand));
  }
  for (const auto event : {SupervisionEvent::kStop, SupervisionEvent::kRestart,
                           SupervisionEvent::kRestartAnew, SupervisionEvent::kResetForReboot}) {
    attention_->Take();
    queue_.Submit(Command(event));
    EXPECT_TRUE(Demands(Urgency::kCommand));
    EXPECT_FALSE(Demands(Urgency::kEnd));
  }
}

TEST_F(CommandQueueTest, AShutdownInterruptsEverythingAndLeavesTheCommands) {
  queue_.Submit(Command(SupervisionEvent::kReset));
  EXPECT_FALSE(queue_.ending());
  queue_.Shutdown();
  EXPECT_TRUE(queue_.ending());
  EXPECT_TRUE(Demands(Urgency::kEnd));
  EXPECT_TRUE(queue_.TakeOrEnd().has_value());
}

TEST_F(CommandQueueTest, AfterTheEndACommandIsAnsweredAtOnce) {
  queue_.Submit(Command(SupervisionEvent::kReset));
  ASSERT_TRUE(queue_.TakeOrEnd().has_value());
  SupervisorCommand late = Command(SupervisionEvent::kStop);
  absl::Status answer;
  late.done = [&answer](const absl::Status& status) { answer = status; };
  queue_.Submit(late);
  EXPECT_TRUE(answer.ok()) << "the queue has not ended while a command is carried out";
  ASSERT_TRUE(queue_.TakeOrEnd().has_value());

  std::thread waits([this] { queue_.AwaitEnd(); });
  EXPECT_FALSE(queue_.TakeOrEnd().has_value());
  waits.join();
  attention_->Take();
  queue_.Submit(late);
  EXPECT_TRUE(absl::IsUnavailable(answer));
  EXPECT_FALSE(Demands(Urgency::kNews));
  EXPECT_FALSE(queue_.Take().has_value());
}

}  // namespace
}  // namespace bulkhead::vmm
