#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/connect_server.h"

// A device process that knows the layout and does what it should not with all that it can write
// and signal.

namespace bulkhead::channel {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

constexpr absl::Duration kAtOnce = absl::ZeroDuration();
constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works

class HostileDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    client_ = *ChannelClient::Create({.slots = 8, .waiters = 2, .max_poll = absl::ZeroDuration()});
    descriptors_ = DuplicateDescriptors(*client_);
    mapping_ = *MemoryMapping::Map(client_->response_memory_fd(), 0, ResponseView::SizeBytes(2),
                                   MemoryMapping::Protection::kReadWrite);
    response_ = std::make_unique<ResponseView>(mapping_.data());
  }

  void FillRing() {
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  }

  absl::Status Read(uint32_t waiter, absl::Duration timeout) {
    return client_->Call(Operation::kRead, waiter, 0, 0, 8, 0, timeout).status();
  }

  void Answer(uint32_t waiter, uint64_t ticket, uint64_t status) {
    response_->completion(waiter).status.Write(status);
    response_->completion(waiter).ticket.store(ticket);
  }

  void ExpectBroken(const absl::Status& status, const char* how) {
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(how));
    EXPECT_EQ(client_->status(), status);
    EXPECT_EQ(client_->Post(0, 0, 0, 8, 0, kLong), status) << "until it is repaired";
  }

  std::unique_ptr<ChannelClient> client_;
  ServerDescriptors descriptors_;
  MemoryMapping mapping_;
  std::unique_ptr<ResponseView> response_;
};

TEST_F(HostileDeviceTest, AHeadPastTheTailFailsTheChannel) {
  FillRing();
  response_->header().head.store(9);
  ExpectBroken(client_->Post(0, 0, 0, 8, 0, kLong), "its head went from 0 to 9, of 8 requests");
}

TEST_F(HostileDeviceTest, AHeadThatMovesBackFailsTheChannel) {
  FillRing();
  response_->header().head.store(4);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  response_->header().head.store(3);
  ExpectBroken(client_->Post(0, 0, 0, 8, 0, kLong), "its head went from 4 to 3");
}

TEST_F(HostileDeviceTest, AHeadThatWouldWrapFailsTheChannel) {
  FillRing();
  response_->header().head.store(UINT64_MAX);
  ExpectBroken(client_->Post(0, 0, 0, 8, 0, kLong), "its head went from 0 to 18446744073709551615");
}

TEST_F(HostileDeviceTest, AHeadThatPassesARequestNotYetSentFailsTheChannel) {
  const uint64_t gap = ChannelPeer::Reserve(*client_);
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  response_->header().head.store(gap);  // its slot is still being written
  ExpectBroken(client_->Post(0, 0, 0, 8, 0, kLong), "past a request that was not sent");
}

TEST_F(HostileDeviceTest, AnAnswerToARequestThatWasNeverMadeFailsTheChannel) {
  Answer(1, 2, 0);
  ExpectBroken(Read(1, kLong), "it answered a request that waiter 1 never made");
}

TEST_F(HostileDeviceTest, AnUnknownStatusFailsTheChannel) {
  Answer(0, 1, 17);
  ExpectBroken(Read(0, kLong), "unknown status 17");
}

TEST_F(HostileDeviceTest, ARefusalFailsTheCallAlone) {
  Answer(0, 1, static_cast<uint64_t>(CompletionStatus::kRefused));
  EXPECT_EQ(Read(0, kLong).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(client_->status().ok());
}

TEST_F(HostileDeviceTest, OneWaitersViolationReleasesTheOthers) {
  absl::Status other;
  std::thread vcpu([&] { other = Read(1, kLong); });
  ChannelPeer::AwaitSleep(*client_, 1);
  Answer(0, 99, 0);
  EXPECT_EQ(Read(0, kLong).code(), StatusCode::kDataLoss);
  vcpu.join();
  EXPECT_EQ(other, client_->status());
}

TEST_F(HostileDeviceTest, SignalsWithoutEndDoNotKeepAWaiterPastItsDeadline) {
  std::atomic<bool> stop{false};
  std::thread device([&] {
    const EventFd event(std::move(descriptors_.completion_events[0]));
    while (!stop.load()) event.Signal();
  });
  const absl::Time start = absl::Now();
  EXPECT_EQ(Read(0, absl::Milliseconds(50)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(45));
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  stop.store(true);
  device.join();
}

TEST_F(HostileDeviceTest, StealingSignalsDoesNotKeepAWaiterAfterFail) {
  std::atomic<bool> stop{false};
  std::thread device([&] {
    const EventFd event(std::move(descriptors_.completion_events[0]));
    while (!stop.load()) event.Drain();
  });
  absl::Status status;
  std::thread vcpu([&] { status = Read(0, kLong); });
  ChannelPeer::AwaitSleep(*client_, 0);
  client_->Fail(absl::UnavailableError("killed"));
  vcpu.join();
  EXPECT_EQ(status, absl::UnavailableError("killed"));
  stop.store(true);
  device.join();
}

// O_NONBLOCK belongs to the open file, and the device shares it: each of its descriptors made
// blocking, each event full, and the device "asleep", so that every request signals it.
TEST_F(HostileDeviceTest, BlockingFullEventsBlockNobodyInTheVmm) {
  const int own_events[] = {descriptors_.request_event.get(),
                            descriptors_.completion_events[0].get(),
                            descriptors_.completion_events[1].get()};
  for (const int fd : own_events) ASSERT_EQ(fcntl(fd, F_SETFL, 0), 0);
  const uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(write(own_events[1], &full, sizeof(full)), 8);
  // The pipe can be opened anew for writing.
  const std::string path = "/proc/self/fd/" + std::to_string(own_events[0]);
  UniqueFd pipe(open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(pipe.ok());
  const std::vector<char> bytes(1 << 16);
  while (write(pipe.get(), bytes.data(), bytes.size()) > 0) {
  }
  response_->header().sleeping.store(1);

  EXPECT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  EXPECT_EQ(Read(0, absl::Milliseconds(20)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Read(1, absl::Milliseconds(20)).code(), StatusCode::kDeadlineExceeded);

  // Killed at last. Its successor is honest, and not blocked by what it finds.
  auto successor = *ConnectServer(*client_, 2);
  ChannelServer::Request request;
  ASSERT_TRUE(successor->TryPeek(request));
  successor->Retire(request);
  ASSERT_TRUE(successor->TryPeek(request));
  successor->Complete(request, 0);
  ASSERT_TRUE(successor->TryPeek(request));
  successor->Complete(request, 7);
  EXPECT_EQ(*client_->AwaitAnswer(1, kLong), 7u);
  ASSERT_TRUE(successor->PrepareToSleep());
  successor->AfterSleep();
}

TEST_F(HostileDeviceTest, HolesPunchedIntoResponseMemoryReadAsZeroes) {
  FillRing();
  response_->header().head.store(4);
  ASSERT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  ASSERT_EQ(fallocate(descriptors_.response_memory.get(),
                      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
            0);
  EXPECT_EQ(Read(1, absl::Milliseconds(1)).code(), StatusCode::kDeadlineExceeded);
  const absl::Status violation = client_->PrepareSuccessor(false)->violation;
  EXPECT_THAT(std::string(violation.message()), HasSubstr("its head went from 4 to 0"));
}

// Each way to lie, found out only when the process is dead: told, repaired, and no successor is
// blamed for it.
TEST_F(HostileDeviceTest, EveryLieThatIsLeftBehindIsRepairedAndToldBeforeASuccessorComes) {
  const auto head_back = [&] { response_->header().head.store(1); };
  const auto head_too_far = [&] { response_->header().head.store(1000); };
  const auto answer_never_asked = [&] { Answer(1, 1000, 0); };
  const auto answer_of_no_kind = [&] { Answer(1, ChannelPeer::tail(*client_), 17); };
  const auto answer_out_of_order = [&] { Answer(1, ChannelPeer::tail(*client_), 0); };
  struct Lie {
    std::function<void()> tell;
    const char* how;
    bool answers = false;
  };
  for (const Lie& lie :
       std::vector<Lie>{{head_back, "its head went from"},
                        {head_too_far, "its head went from"},
                        {answer_never_asked, "it answered a request that waiter 1 never made"},
                        {answer_of_no_kind, "it answered with the unknown status 17"},
                        {answer_out_of_order, "with its head at", /*answers=*/true}}) {
    SetUp();
    auto honest = *ConnectServer(*client_, 1);
    ChannelServer::Request request;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok());
      ASSERT_TRUE(honest->TryPeek(request));
      honest->Retire(request);
    }
    ASSERT_TRUE(client_->PrepareSuccessor(false).ok());  // the vmm has seen head 3
    ASSERT_TRUE(client_->Post(0, 0, 0, 8, 4, kAtOnce).ok());
    EXPECT_EQ(Read(1, kAtOnce).code(), StatusCode::kDeadlineExceeded);
    lie.tell();
    const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_THAT(std::string(plan->violation.message()), HasSubstr(lie.how));
    EXPECT_TRUE(client_->PrepareSuccessor(false)->violation.ok()) << lie.how;

    auto successor = *ConnectServer(*client_, 2);
    if (!lie.answers) {  // else its answer is as good as any
      EXPECT_EQ(plan->head, 3u) << lie.how;
      ASSERT_TRUE(successor->TryPeek(request));
      EXPECT_EQ(request.data, 4u);
      successor->Retire(request);
      ASSERT_TRUE(successor->TryPeek(request));
      successor->Complete(request, 7);
    }
    EXPECT_TRUE(client_->AwaitAnswer(1, kLong).ok()) << lie.how;
    EXPECT_TRUE(client_->status().ok());
  }
}

TEST_F(HostileDeviceTest, WhatWasAnsweredIsNotForgottenWithTheResponseMemory) {
  auto honest = *ConnectServer(*client_, 1);
  ChannelServer::Request request;
  std::thread vcpu([&] { EXPECT_TRUE(Read(1, kLong).ok()); });
  while (!honest->TryPeek(request)) std::this_thread::yield();
  honest->Complete(request, 7);
  vcpu.join();
  ASSERT_TRUE(client_->Post(0, 0, 0, 8, 2, kAtOnce).ok());
  memset(mapping_.data(), 0xff, mapping_.size());
  const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->head, 1u);
  auto successor = *ConnectServer(*client_, 2);
  ASSERT_TRUE(successor->TryPeek(request));
  EXPECT_EQ(request.data, 2u);
}

TEST_F(HostileDeviceTest, BlockingFullEventsDoNotBlockThePreparationForASuccessor) {
  for (const UniqueFd& event : descriptors_.completion_events) {
    ASSERT_EQ(fcntl(event.get(), F_SETFL, 0), 0);
    const uint64_t full = UINT64_MAX - 1;
    ASSERT_EQ(write(event.get(), &full, sizeof(full)), 8);
  }
  EXPECT_TRUE(client_->PrepareSuccessor(false).ok());
}

// A process that should be dead, and is not.
TEST_F(HostileDeviceTest, ScribblingDuringThePreparationNeitherHangsNorCrashesTheVmm) {
  std::atomic<bool> stop{false};
  std::thread device([&] {
    for (uint32_t random = 1; !stop.load();) {
      random = random * 1664525 + 1013904223;
      const uint64_t value = random % 3 == 0 ? UINT64_MAX : random >> 16 & 31;
      switch (random >> 24 & 3) {
        case 0:
          response_->header().head.store(value);
          break;
        case 1:
          Answer(random >> 8 & 1, value, random >> 9 & 1);
          break;
        default:
          response_->header().sleeping.store(random & 1);
      }
    }
  });
  std::vector<std::thread> vcpus;
  for (uint32_t waiter = 0; waiter < 2; ++waiter) {
    vcpus.emplace_back([&, waiter] {
      while (!stop.load()) {
        client_->Post(waiter, 0, 0, 8, 0, absl::Microseconds(50)).IgnoreError();
        Read(waiter, absl::Microseconds(50)).IgnoreError();
      }
    });
  }
  for (int i = 0; i < 300; ++i) {
    client_->PrepareSuccessor(i % 2 == 0).IgnoreError();
    client_->Reopen();
  }
  stop.store(true);
  device.join();
  for (std::thread& vcpu : vcpus) vcpu.join();
  // Dead at last.
  client_->PrepareSuccessor(true).IgnoreError();
  client_->Reopen();
  ASSERT_TRUE(client_->Post(0, 0, 0, 8, 42, kAtOnce).ok());
  const auto successor = ConnectServer(*client_, 2);
  ASSERT_TRUE(successor.ok()) << successor.status();
  ChannelServer::Request request;
  ASSERT_TRUE((*successor)->TryPeek(request));
  EXPECT_EQ(request.data, 42u);
}

}  // namespace
}  // namespace bulkhead::channel
