#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/testing/hostile_flags.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

// One device process after the other on one channel.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;
using absl::StatusCode;

constexpr absl::Duration kAtOnce = absl::ZeroDuration();
constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works

class SuccessorTest : public testing::Test {
 protected:
  void SetUp() override {
    client_ = *ChannelClient::Create({.slots = 8, .waiters = 2, .max_poll = absl::ZeroDuration()});
    response_ = *MemoryMapping::Map(client_->response_memory_fd(), 0, ResponseView::SizeBytes(2),
                                    MemoryMapping::Protection::kReadWrite);
  }

  void Post(uint64_t value) { ASSERT_TRUE(client_->Post(0, 0, 0, 8, value, kAtOnce).ok()); }
  absl::StatusOr<uint64_t> Read(uint32_t waiter, absl::Duration timeout) {
    return client_->Call(Operation::kRead, waiter, 0, 0, 8, 0, timeout);
  }
  // For a process that died without any harm.
  SuccessorPlan Prepare() {
    const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
    EXPECT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(plan->violation.ok()) << plan->violation;
    EXPECT_EQ(plan->discarded, 0u);
    return *plan;
  }

  // What a process leaves behind.
  std::atomic<uint64_t>& head() { return ResponseView(response_.data()).header().head; }
  CompletionSlot& completion(uint32_t waiter) {
    return ResponseView(response_.data()).completion(waiter);
  }

  std::unique_ptr<ChannelClient> client_;
  MemoryMapping response_;
};

Request Next(ChannelServer& server) {
  Request request;
  while (!server.TryPeek(request)) std::this_thread::yield();
  return request;
}

TEST_F(SuccessorTest, AnswersTheReadThatItsPredecessorFetchedAndDiedWith) {
  auto server = *ConnectServer(*client_, /*generation=*/1);
  absl::StatusOr<uint64_t> answer;
  std::thread vcpu([&] { answer = client_->Call(Operation::kRead, 1, 0, 0x30, 4, 0, kLong); });
  ChannelPeer::AwaitSleep(*client_, 1);
  EXPECT_EQ(Next(*server).offset, 0x30u);
  server.reset();  // dies here

  EXPECT_EQ(Prepare().head, 0u);
  server = *ConnectServer(*client_, /*generation=*/2);
  EXPECT_EQ(client_->device_report().generation, 2u);
  const Request request = Next(*server);
  EXPECT_EQ(request.offset, 0x30u);
  EXPECT_EQ(request.ticket, 1u);
  server->Complete(request, 77);
  vcpu.join();
  EXPECT_EQ(*answer, 77u);
}

TEST_F(SuccessorTest, TakesPostedWritesFromTheFirstThatWasNotWhollyProcessed) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 5; ++i) Post(i);
  server->Retire(Next(*server));
  server->Retire(Next(*server));
  EXPECT_EQ(Next(*server).data, 3u);
  server.reset();
  Post(6);  // while nobody is there
  const SuccessorPlan plan = Prepare();
  EXPECT_EQ(plan.head, 2u);
  EXPECT_EQ(plan.waiting, 4u);

  server = *ConnectServer(*client_, 2);
  for (uint64_t i = 3; i <= 6; ++i) {
    EXPECT_EQ(Next(*server).data, i);
    server->Retire(Next(*server));
  }
}

TEST_F(SuccessorTest, IsNotBelievedToSleepBecauseItsPredecessorDiedAsleep) {
  auto server = *ConnectServer(*client_, 1);
  ASSERT_TRUE(server->PrepareToSleep());
  server.reset();
  Post(1);
  server = *ConnectServer(*client_, 2);
  EXPECT_EQ(Next(*server).data, 1u);
  server->Retire(Next(*server));
  ASSERT_TRUE(server->PrepareToSleep());
  Post(2);
  EXPECT_FALSE(server->PrepareToSleep());
  server->AfterSleep();
  EXPECT_EQ(Next(*server).data, 2u);
}

TEST_F(SuccessorTest, AttachesAtEveryPlaceOfTheRingFullOrNot) {
  auto server = *ConnectServer(*client_, 1);
  uint64_t sent = 0;
  uint64_t done = 0;
  for (int round = 0; round < 40; ++round) {
    while (sent < done + 8 - (round % 3)) Post(++sent);
    server = *ConnectServer(*client_, round + 2);
    for (int i = 0; i < 1 + round % 5; ++i) {
      ASSERT_EQ(Next(*server).data, ++done);
      server->Retire(Next(*server));
    }
  }
}

TEST_F(SuccessorTest, RefusesAHeadThatNoProcessCanHaveLeft) {
  for (uint64_t i = 1; i <= 6; ++i) Post(i);
  for (const uint64_t impossible :
       {uint64_t{7}, uint64_t{8}, uint64_t{9}, uint64_t{100}, uint64_t{1} << 63, UINT64_MAX}) {
    head().store(impossible);
    EXPECT_EQ(ConnectServer(*client_, 2).status().code(), StatusCode::kDataLoss) << impossible;
  }
  for (uint64_t possible = 0; possible <= 6; ++possible) {
    head().store(possible);
    EXPECT_TRUE(ConnectServer(*client_, 2).ok()) << possible;
  }
}

TEST_F(SuccessorTest, RefusesAHeadWhoseRequestsAreOverwritten) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 12; ++i) {
    Post(i);
    server->Retire(Next(*server));
  }
  for (const uint64_t impossible : {0, 1, 3, 13, 20}) {
    head().store(impossible);
    EXPECT_EQ(ConnectServer(*client_, 2).status().code(), StatusCode::kDataLoss) << impossible;
  }
}

TEST_F(SuccessorTest, StartsAtTheLastHeadFoundPossibleWhereItsPredecessorLeftAnImpossibleOne) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 3; ++i) {
    Post(i);
    server->Retire(Next(*server));
  }
  ASSERT_TRUE(client_->PrepareSuccessor(false)->violation.ok());
  Post(4);
  for (const uint64_t impossible : {uint64_t{2}, uint64_t{5}, UINT64_MAX}) {
    head().store(impossible);
    const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
    EXPECT_EQ(plan->violation.code(), StatusCode::kDataLoss);
    EXPECT_EQ(plan->head, 3u);
    EXPECT_EQ(plan->waiting, 1u);
  }
  EXPECT_TRUE(client_->PrepareSuccessor(false)->violation.ok()) << "repaired";
  server = *ConnectServer(*client_, 2);
  EXPECT_EQ(server->processed(), 3u);
  EXPECT_EQ(server->VisibleTail(), 4u);
  EXPECT_EQ(Next(*server).data, 4u);
}

TEST_F(SuccessorTest, DoesNotSeeTheRequestThatItsPredecessorDiedRightAfterAnswering) {
  auto server = *ConnectServer(*client_, 1);
  // Answered in vain, as far as the waiter can tell; and answered with its waiter listening.
  for (const bool taken : {false, true}) {
    const uint64_t before = server->processed();
    EXPECT_FALSE(Read(0, kAtOnce).ok());
    server->Complete(Next(*server), 77);
    if (taken) {
      EXPECT_EQ(*client_->AwaitAnswer(0, kAtOnce), 77u);
    }
    server.reset();
    head().store(before);  // the step that death prevented
    EXPECT_EQ(Prepare().head, before + 1);
    server = *ConnectServer(*client_, 2);
    Request request;
    EXPECT_FALSE(server->TryPeek(request));
    if (!taken) {
      EXPECT_EQ(*client_->AwaitAnswer(0, kAtOnce), 77u);
    }
  }
  // Likewise if the waiter has gone on since.
  const uint64_t before = server->processed();
  EXPECT_FALSE(Read(0, kAtOnce).ok());
  server->Complete(Next(*server), 78);
  server.reset();
  head().store(before);
  EXPECT_FALSE(Read(0, kAtOnce).ok());
  const SuccessorPlan plan = Prepare();
  EXPECT_EQ(plan.head, before + 1);
  EXPECT_EQ(plan.waiting, 1u);
}

// What a device host does that finds the first request in its saved state.
TEST_F(SuccessorTest, AnswersWithoutApplyingWhatItsPredecessorHadApplied) {
  auto server = *ConnectServer(*client_, 1);
  EXPECT_FALSE(Read(0, kAtOnce).ok());
  Post(5);
  const uint64_t saved_ticket = Next(*server).ticket;
  server.reset();
  Prepare();
  server = *ConnectServer(*client_, 2);
  ASSERT_EQ(saved_ticket, server->processed() + 1);
  ASSERT_LE(saved_ticket, server->VisibleTail());
  server->Complete(Next(*server), /*data=*/42);
  EXPECT_EQ(*client_->AwaitAnswer(0, kAtOnce), 42u);
  EXPECT_EQ(Next(*server).data, 5u);
}

TEST_F(SuccessorTest, AWaiterWhoseAnswerIsLostIsReleasedAtOnce) {
  auto server = *ConnectServer(*client_, 1);
  absl::StatusOr<uint64_t> lost;
  std::thread vcpu([&] { lost = Read(1, kLong); });
  ChannelPeer::AwaitSleep(*client_, 1);
  Post(2);
  head().store(1);  // past the read, without an answer
  server.reset();
  const SuccessorPlan plan = Prepare();
  EXPECT_EQ(plan.head, 1u);
  EXPECT_EQ(plan.waiting, 1u);
  vcpu.join();
  EXPECT_EQ(lost.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client_->AwaitAnswer(1, kLong).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(client_->status().ok());
}

TEST_F(SuccessorTest, ServesAfterItsPredecessorBrokeTheProtocol) {
  auto server = *ConnectServer(*client_, 1);
  EXPECT_FALSE(Read(0, kAtOnce).ok());
  EXPECT_FALSE(Read(1, kAtOnce).ok());
  Post(3);
  server->Complete(Next(*server), 11);
  server.reset();
  completion(1).ticket.store(99);
  EXPECT_EQ(client_->AwaitAnswer(1, kLong).status().code(), StatusCode::kDataLoss);
  client_->Reopen();
  EXPECT_EQ(client_->status().code(), StatusCode::kDataLoss) << "not repaired yet";

  const absl::Status violation = client_->status();
  const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->violation, violation);
  EXPECT_EQ(plan->head, 1u);
  EXPECT_EQ(plan->waiting, 2u);
  EXPECT_FALSE(client_->status().ok()) << "until it is reopened";
  server = *ConnectServer(*client_, 2);
  client_->Reopen();
  EXPECT_EQ(*client_->AwaitAnswer(0, kAtOnce), 11u);
  server->Complete(Next(*server), 22);
  EXPECT_EQ(*client_->AwaitAnswer(1, kAtOnce), 22u);
  EXPECT_EQ(Next(*server).data, 3u);
  server->Retire(Next(*server));
  EXPECT_TRUE(client_->PrepareSuccessor(false)->violation.ok());
}

TEST_F(SuccessorTest, StartsWithAnEmptyRingIfRequestsAreDiscarded) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 3; ++i) Post(i);
  server->Retire(Next(*server));
  absl::StatusOr<uint64_t> discarded;
  std::thread vcpu([&] { discarded = Read(1, kLong); });
  ChannelPeer::AwaitSleep(*client_, 1);
  server.reset();

  const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->violation.ok());
  EXPECT_EQ(plan->head, 4u);
  EXPECT_EQ(plan->waiting, 0u);
  EXPECT_EQ(plan->discarded, 3u);
  vcpu.join();
  EXPECT_EQ(discarded.status().code(), StatusCode::kUnavailable);
  Post(5);
  server = *ConnectServer(*client_, 2);
  EXPECT_EQ(Next(*server).data, 5u);
}

TEST_F(SuccessorTest, AWaitThatWasInterruptedFindsOutThatItsRequestWasDiscarded) {
  EXPECT_EQ(Read(0, kAtOnce).status().code(), StatusCode::kDeadlineExceeded);
  std::thread vcpu([&] { EXPECT_EQ(Read(1, kLong).status().code(), StatusCode::kCancelled); });
  ChannelPeer::AwaitSleep(*client_, 1);
  client_->CancelWaits();
  vcpu.join();
  client_->Fail(absl::UnavailableError("killed"));
  ASSERT_TRUE(client_->PrepareSuccessor(true).ok());
  auto server = *ConnectServer(*client_, 2);
  client_->Reopen();
  client_->ResumeWaits();
  for (const uint32_t waiter : {0, 1}) {
    EXPECT_EQ(client_->AwaitAnswer(waiter, kLong).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(client_->AwaitAnswer(waiter, kLong).status().code(), StatusCode::kFailedPrecondition);
  }
}

TEST_F(SuccessorTest, AWaitThatWasInterruptedIsAnsweredByTheSuccessor) {
  EXPECT_EQ(Read(0, kAtOnce).status().code(), StatusCode::kDeadlineExceeded);
  client_->Fail(absl::UnavailableError("killed"));
  EXPECT_EQ(client_->AwaitAnswer(0, kLong).status(), absl::UnavailableError("killed"));
  Prepare();
  auto server = *ConnectServer(*client_, 2);
  client_->Reopen();
  server->Complete(Next(*server), 5);
  EXPECT_EQ(*client_->AwaitAnswer(0, kLong), 5u);
}

TEST_F(SuccessorTest, DiscardingMakesRoomForWhoWaitsForIt) {
  for (uint64_t i = 1; i <= 8; ++i) Post(i);
  std::thread vcpu([&] { EXPECT_TRUE(client_->Post(1, 0, 0, 8, 9, kLong).ok()); });
  ChannelPeer::AwaitSleep(*client_, 1);
  ASSERT_TRUE(client_->PrepareSuccessor(true).ok());
  vcpu.join();
  auto server = *ConnectServer(*client_, 2);
  EXPECT_EQ(Next(*server).data, 9u);
}

// A process that the dead one has forked may have the events, and could make a write to one block.
TEST_F(SuccessorTest, NothingIsWrittenToAnEventThatADeviceShares) {
  std::thread vcpu([&] { EXPECT_TRUE(absl::IsUnavailable(Read(1, kLong).status())); });
  ChannelPeer::AwaitSleep(*client_, 1);
  for (const uint32_t waiter : {0, 1}) {
    const int event = client_->completion_event_fd(waiter);
    ASSERT_EQ(fcntl(event, F_SETFL, 0), 0);  // blocking, which is mended
    EXPECT_FALSE(IsEventFdPending(event));
  }
  ASSERT_TRUE(client_->PrepareSuccessor(true).ok());
  vcpu.join();
  for (const uint32_t waiter : {0, 1}) {
    const int event = client_->completion_event_fd(waiter);
    EXPECT_FALSE(IsEventFdPending(event));
    EXPECT_EQ(fcntl(event, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  }
  EXPECT_FALSE(ChannelPeer::Interrupted(*client_)) << "sleepers would not sleep";
}

TEST_F(SuccessorTest, ASignalThatADeadProcessOrderedIsNotSent) {
  std::vector<int> shared = {client_->request_memory_fd(), client_->response_memory_fd(),
                             client_->request_event_fd(), client_->completion_event_fd(0),
                             client_->completion_event_fd(1)};
  ASSERT_TRUE(LeaveHostileFlags(shared, SIGKILL));
  Prepare();
  for (const int fd : shared) EXPECT_EQ(HostileFlagsOf(fd), "");
  auto server = *ConnectServer(*client_, 2);
  ASSERT_TRUE(server->PrepareToSleep());
  Post(1);  // wakes the server, and would end this process
  server->AfterSleep();
  EXPECT_EQ(Next(*server).data, 1u);
}

TEST_F(SuccessorTest, DiscardingWaitsForWhoIsJustSending) {
  Post(1);
  const uint64_t gap = ChannelPeer::Reserve(*client_);
  std::thread sender([&] { ChannelPeer::Publish(*client_, gap); });
  const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(true);
  sender.join();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->head, gap);
}

TEST_F(SuccessorTest, NothingHasChangedIfSomebodyStandsStillInTheMiddleOfAnAccess) {
  Post(1);
  ChannelPeer::SetReadsHead(*client_, 1, true);
  // A thread that looks at the head now finds no violation.
  std::thread vcpu([&] {
    while (head().load() != UINT64_MAX) std::this_thread::yield();
    for (uint64_t i = 2; i <= 8; ++i) Post(i);
    EXPECT_EQ(client_->Post(0, 0, 0, 8, 9, kAtOnce).code(), StatusCode::kDeadlineExceeded);
  });
  EXPECT_EQ(client_->PrepareSuccessor(false).status().code(), StatusCode::kDeadlineExceeded);
  vcpu.join();
  EXPECT_EQ(head().load(), 0u);
  EXPECT_TRUE(client_->status().ok()) << client_->status();
  ChannelPeer::SetReadsHead(*client_, 1, false);
  EXPECT_EQ(Prepare().waiting, 8u);

  auto server = *ConnectServer(*client_, 2);
  for (uint64_t i = 1; i <= 8; ++i) server->Retire(Next(*server));
  const uint64_t gap = ChannelPeer::Reserve(*client_);
  EXPECT_EQ(client_->PrepareSuccessor(true).status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(head().load(), 8u);
  EXPECT_EQ(Prepare().waiting, 1u) << "a successor that serves all waits for nobody";
  ChannelPeer::Publish(*client_, gap);
}

}  // namespace
}  // namespace bulkhead::channel
