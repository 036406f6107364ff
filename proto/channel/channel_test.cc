#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/streams.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

// Both ends as they are meant to be used, in one process. The test is the device, step by step.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;
using absl::StatusCode;

constexpr absl::Duration kAtOnce = absl::ZeroDuration();
constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works

std::unique_ptr<ChannelClient> MakeClient(uint32_t waiters, uint32_t slots = 256) {
  return *ChannelClient::Create(
      {.slots = slots, .waiters = waiters, .max_poll = absl::ZeroDuration()});
}

// The next request, waiting for it.
Request Next(ChannelServer& server) {
  Request request;
  while (!server.TryPeek(request)) std::this_thread::yield();
  return request;
}

// A call on a thread of its own.
class PendingCall {
 public:
  PendingCall(ChannelClient& client, uint32_t waiter, uint64_t offset,
              absl::Duration timeout = kLong)
      : thread_([=, this, &client] {
          result_ = client.Call(Operation::kRead, waiter, 0, offset, 8, 0, timeout);
        }) {}
  ~PendingCall() {
    if (thread_.joinable()) thread_.join();
  }

  absl::StatusOr<uint64_t> Result() {
    thread_.join();
    return result_;
  }

 private:
  absl::StatusOr<uint64_t> result_;
  std::thread thread_;
};

TEST(ChannelCreateTest, ImpossibleOptionsAreRefused) {
  for (const uint32_t slots : {0u, 2u, 3u, 100u, kMaxSlots * 2}) {
    EXPECT_EQ(ChannelClient::Create({.slots = slots, .waiters = 1}).status().code(),
              StatusCode::kInvalidArgument)
        << slots;
  }
  for (const uint32_t waiters : {0u, kMaxWaiters + 1}) {
    EXPECT_EQ(ChannelClient::Create({.waiters = waiters}).status().code(),
              StatusCode::kInvalidArgument)
        << waiters;
  }
}

TEST(ChannelCreateTest, NobodyPollsWhereThereIsOneCpu) {
  std::thread([] {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(sched_getcpu(), &cpus);
    ASSERT_EQ(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
    auto client = *ChannelClient::Create({.waiters = 1, .max_poll = absl::Microseconds(50)});
    EXPECT_EQ(client->options().max_poll, absl::ZeroDuration());
    auto server = *ConnectServer(*client, 1, absl::Microseconds(50));
    server->PollForRequest();
    EXPECT_EQ(client->device_report().polls, 0u);
  }).join();
}

TEST(ChannelCreateTest, RequestMemoryCannotBeWrittenByWhoeverGetsIt) {
  auto client = MakeClient(1);
  const int fd = client->request_memory_fd();
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_LT(pwrite(fd, "x", 1, 0), 0);
  EXPECT_NE(ftruncate(fd, 0), 0);
  EXPECT_NE(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  EXPECT_NE(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(ChannelCreateTest, ResponseMemoryCannotBeTruncatedUnderTheVmm) {
  auto client = MakeClient(1);
  const int fd = client->response_memory_fd();
  EXPECT_NE(ftruncate(fd, 0), 0);
  EXPECT_NE(ftruncate(fd, 1 << 20), 0);
  EXPECT_NE(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(ChannelCreateTest, ServerRefusesMemoryThatDoesNotFitItsParameters) {
  auto client = MakeClient(2);
  ServerParameters parameters = ParametersFor(*client, 1, absl::ZeroDuration());
  parameters.slots = 128;
  EXPECT_EQ(ChannelServer::Create(DuplicateDescriptors(*client), parameters).status().code(),
            StatusCode::kInvalidArgument);
  parameters.slots = 1 << 15;  // larger than the file
  EXPECT_EQ(ChannelServer::Create(DuplicateDescriptors(*client), parameters).status().code(),
            StatusCode::kInvalidArgument);
  parameters = ParametersFor(*client, 1, absl::ZeroDuration());
  ServerDescriptors descriptors = DuplicateDescriptors(*client);
  descriptors.completion_events.pop_back();
  EXPECT_EQ(ChannelServer::Create(std::move(descriptors), parameters).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(ChannelTest, ServerSeesARequestAsItWasSent) {
  auto client = MakeClient(2);
  auto server = *ConnectServer(*client);
  Request request;
  EXPECT_FALSE(server->TryPeek(request));
  ASSERT_TRUE(client->Post(1, 5, 0xfedcba9876543210, 4, 0x1122334455667788, kAtOnce).ok());
  ASSERT_TRUE(server->TryPeek(request));
  EXPECT_EQ(request.operation, Operation::kPostedWrite);
  EXPECT_EQ(request.waiter, 1);
  EXPECT_EQ(request.region, 5);
  EXPECT_EQ(request.offset, 0xfedcba9876543210);
  EXPECT_EQ(request.size_bytes, 4);
  EXPECT_EQ(request.data, 0x55667788u) << "only the bytes of the access";
  EXPECT_EQ(request.ticket, 1u);
  server->Retire(request);
  EXPECT_FALSE(server->TryPeek(request));
}

TEST(ChannelTest, CallReturnsTheAnswersBytesOfItsSize) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  PendingCall call(*client, 0, 0x10);
  server->Complete(Next(*server), 0x1122334455667788);
  EXPECT_EQ(*call.Result(), 0x1122334455667788u);

  std::thread narrow(
      [&] { EXPECT_EQ(*client->Call(Operation::kWrite, 0, 0, 0, 2, 0, kLong), 0x7788u); });
  server->Complete(Next(*server), 0x1122334455667788);
  narrow.join();
}

TEST(ChannelTest, ArgumentsThatNoAccessHasAreRefusedAndNothingIsSent) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  EXPECT_EQ(client->Post(1, 0, 0, 4, 0, kAtOnce).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client->Post(0, 0, 0, 3, 0, kAtOnce).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client->Call(Operation::kPostedWrite, 0, 0, 0, 4, 0, kAtOnce).status().code(),
            StatusCode::kInvalidArgument);
  Request request;
  EXPECT_FALSE(server->TryPeek(request));
}

TEST(ChannelTest, RequestsOfAllWaitersArriveInTheOrderOfTheirCalls) {
  auto client = MakeClient(3);
  auto server = *ConnectServer(*client);
  for (uint32_t i = 0; i < 30; ++i) {
    std::thread([&] { ASSERT_TRUE(client->Post(i % 3, 0, 0, 8, i, kAtOnce).ok()); }).join();
  }
  for (uint32_t i = 0; i < 30; ++i) {
    const Request request = Next(*server);
    EXPECT_EQ(request.data, i);
    EXPECT_EQ(request.waiter, i % 3);
    server->Retire(request);
  }
}

TEST(ChannelTest, AGapHidesLaterRequestsUntilItIsFilledButTheirPresenceIsTold) {
  auto client = MakeClient(2);
  auto server = *ConnectServer(*client);
  EXPECT_FALSE(server->HasLaterRequest());
  const uint64_t gap = ChannelPeer::Reserve(*client);
  EXPECT_FALSE(server->HasLaterRequest());
  ASSERT_TRUE(client->Post(1, 0, 0, 8, 0, kAtOnce).ok());
  Request request;
  EXPECT_FALSE(server->TryPeek(request));
  EXPECT_TRUE(server->HasLaterRequest());
  EXPECT_EQ(server->VisibleTail(), 0u);
  ChannelPeer::Publish(*client, gap);
  EXPECT_EQ(server->VisibleTail(), 2u);
  server->Retire(Next(*server));
  server->Retire(Next(*server));
  EXPECT_FALSE(server->HasLaterRequest());
}

TEST(ChannelRingTest, PostsNeedNoDeviceUntilTheRingIsFull) {
  auto client = MakeClient(1, /*slots=*/8);
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(client->Post(0, 0, 0, 8, i, kAtOnce).ok());
  EXPECT_EQ(client->Post(0, 0, 0, 8, 99, absl::Milliseconds(5)).code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kAtOnce).status().code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client->AwaitAnswer(0, kAtOnce).status().code(), StatusCode::kFailedPrecondition)
      << "the call was never sent";

  auto server = *ConnectServer(*client);
  for (uint64_t i = 0; i < 8; ++i) {
    const Request request = Next(*server);
    EXPECT_EQ(request.data, i);
    server->Retire(request);
  }
  Request request;
  EXPECT_FALSE(server->TryPeek(request)) << "what timed out left nothing, not even a gap";
  ASSERT_TRUE(client->Post(0, 0, 0, 8, 8, kAtOnce).ok());
  EXPECT_EQ(Next(*server).data, 8u);
}

TEST(ChannelRingTest, AProducerThatSleepsForSpaceIsWokenWithinAQuarterOfTheRing) {
  auto client = MakeClient(2, /*slots=*/8);
  auto server = *ConnectServer(*client);
  // The quarters of the second round do not fall on its start.
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(client->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  for (int i = 0; i < 3; ++i) server->Retire(Next(*server));
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(client->Post(0, 0, 0, 8, i, kAtOnce).ok());

  std::thread producer([&] { ASSERT_TRUE(client->Post(1, 0, 0, 8, 8, kLong).ok()); });
  ChannelPeer::AwaitSleep(*client, 1);
  server->Retire(Next(*server));
  server->Retire(Next(*server));
  producer.join();
  for (uint64_t i = 2; i < 9; ++i) {
    EXPECT_EQ(Next(*server).data, i);
    server->Retire(Next(*server));
  }
}

TEST(ChannelWaitTest, ALateAnswerIsNotTakenForTheNextCalls) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 1, 8, 0, absl::Milliseconds(1)).status().code(),
            StatusCode::kDeadlineExceeded);
  PendingCall second(*client, 0, 2);
  ChannelPeer::AwaitSleep(*client, 0);
  server->Complete(Next(*server), 111);
  server->Complete(Next(*server), 222);
  EXPECT_EQ(*second.Result(), 222u);
}

TEST(ChannelWaitTest, AnAnswerCanBeAwaitedAgainAfterATimeout) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  EXPECT_EQ(client->AwaitAnswer(0, kLong).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 1, 8, 0, kAtOnce).status().code(),
            StatusCode::kDeadlineExceeded);
  server->Complete(Next(*server), 111);
  EXPECT_EQ(*client->AwaitAnswer(0, kLong), 111u);
  EXPECT_EQ(client->AwaitAnswer(0, kLong).status().code(), StatusCode::kFailedPrecondition)
      << "an answer is taken once";
}

TEST(ChannelWaitTest, ADeferredAnswerComesAfterThoseOfLaterRequests) {
  const auto client = MakeClient(2);
  const auto server = ConnectServer(*client).value();
  PendingCall slow(*client, 0, 1);
  const Request request = Next(*server);
  server->Defer(request);
  EXPECT_EQ(server->processed(), 1u);
  PendingCall quick(*client, 1, 2);
  server->Complete(Next(*server), 22);
  EXPECT_EQ(quick.Result().value(), 22u);
  server->AnswerDeferred(request, 11);
  EXPECT_EQ(slow.Result().value(), 11u);
}

TEST(ChannelWaitTest, ADeferredAnswerThatWasGivenUpDoesNotReplaceALaterOne) {
  const auto client = MakeClient(1);
  const auto server = ConnectServer(*client).value();
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 1, 8, 0, kAtOnce).status().code(),
            StatusCode::kDeadlineExceeded);
  const Request deferred = Next(*server);
  server->Defer(deferred);
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 2, 8, 0, kAtOnce).status().code(),
            StatusCode::kDeadlineExceeded);
  server->Complete(Next(*server), 22);
  server->AnswerDeferred(deferred, 11);
  EXPECT_EQ(client->AwaitAnswer(0, kLong).value(), 22u);
}

TEST(ChannelWaitTest, AwaitingIsAboutTheLastCallEvenIfThatWasNeverSent) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  EXPECT_FALSE(client->Call(Operation::kRead, 0, 0, 1, 8, 0, kAtOnce).ok());
  server->Complete(Next(*server), 111);
  client->CancelWaits();
  EXPECT_FALSE(client->Call(Operation::kRead, 0, 0, 2, 8, 0, kAtOnce).ok());
  client->ResumeWaits();
  EXPECT_EQ(client->AwaitAnswer(0, kAtOnce).status().code(), StatusCode::kFailedPrecondition);
}

TEST(ChannelWaitTest, FailReleasesEveryWaiterAndTheFirstReasonStays) {
  auto client = MakeClient(3, /*slots=*/4);
  PendingCall reader(*client, 0, 0);
  PendingCall other(*client, 1, 0);
  ChannelPeer::AwaitSleep(*client, 0);
  ChannelPeer::AwaitSleep(*client, 1);
  ASSERT_TRUE(client->Post(2, 0, 0, 8, 0, kAtOnce).ok());
  ASSERT_TRUE(client->Post(2, 0, 0, 8, 0, kAtOnce).ok());
  absl::Status posted;
  std::thread producer([&] { posted = client->Post(2, 0, 0, 8, 0, kLong); });  // ring full
  ChannelPeer::AwaitSleep(*client, 2);

  client->Fail(absl::UnavailableError("killed by signal 9"));
  client->Fail(absl::UnavailableError("said twice"));
  producer.join();
  EXPECT_EQ(posted, absl::UnavailableError("killed by signal 9"));
  EXPECT_EQ(reader.Result().status(), posted);
  EXPECT_EQ(other.Result().status(), posted);
  EXPECT_EQ(client->Post(0, 0, 0, 8, 0, kLong), posted);
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong).status(), posted);
  EXPECT_EQ(client->AwaitAnswer(1, kLong).status(), posted);
  EXPECT_EQ(client->status(), posted);
}

TEST(ChannelWaitTest, CancelledCallsGoOnWhereTheyWere) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  PendingCall call(*client, 0, 0);
  ChannelPeer::AwaitSleep(*client, 0);
  client->CancelWaits();
  EXPECT_EQ(call.Result().status().code(), StatusCode::kCancelled);
  EXPECT_EQ(client->AwaitAnswer(0, kLong).status().code(), StatusCode::kCancelled);

  client->ResumeWaits();
  const Request request = Next(*server);
  std::thread device([&] {
    ChannelPeer::AwaitSleep(*client, 0);
    server->Complete(request, 5);
  });
  EXPECT_EQ(*client->AwaitAnswer(0, kLong), 5u);
  device.join();
  Request none;
  EXPECT_FALSE(server->TryPeek(none)) << "sent once";
}

TEST(ChannelWaitTest, WhileCancelledNothingIsSentThatWouldWait) {
  auto client = MakeClient(1, /*slots=*/4);
  auto server = *ConnectServer(*client);
  client->CancelWaits();
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong).status().code(),
            StatusCode::kCancelled);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(client->Post(0, 0, 0, 8, 7, kLong).ok());
  EXPECT_EQ(client->Post(0, 0, 0, 8, 7, kLong).code(), StatusCode::kCancelled);
  EXPECT_EQ(Next(*server).operation, Operation::kPostedWrite);
}

TEST(ChannelWaitTest, AReopenedChannelWorksAndItsOldRequestsStillGetTheirAnswers) {
  auto client = MakeClient(2);
  auto server = *ConnectServer(*client);
  PendingCall call(*client, 0, 1);
  ChannelPeer::AwaitSleep(*client, 0);
  client->Fail(absl::UnavailableError("killed"));
  EXPECT_EQ(call.Result().status(), absl::UnavailableError("killed"));
  EXPECT_EQ(client->Post(1, 0, 0, 8, 2, kAtOnce), absl::UnavailableError("killed"));

  client->Reopen();
  EXPECT_TRUE(client->status().ok());
  ASSERT_TRUE(client->Post(1, 0, 0, 8, 3, kAtOnce).ok());
  server->Complete(Next(*server), 111);
  EXPECT_EQ(Next(*server).data, 3u) << "what was refused while the channel had failed is not sent";
  EXPECT_EQ(*client->AwaitAnswer(0, kLong), 111u);

  client->Fail(absl::AbortedError("again"));
  EXPECT_EQ(client->Post(1, 0, 0, 8, 4, kAtOnce), absl::AbortedError("again"));
}

TEST(ChannelWaitTest, ReopeningDoesNotResumeCancelledWaits) {
  auto client = MakeClient(1);
  client->CancelWaits();
  client->Fail(absl::UnavailableError("gone"));
  client->Reopen();
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong).status().code(),
            StatusCode::kCancelled);
  client->ResumeWaits();
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kAtOnce).status().code(),
            StatusCode::kDeadlineExceeded);
}

TEST(ChannelWaitTest, ResumingDoesNotReviveAFailedChannel) {
  auto client = MakeClient(1);
  client->CancelWaits();
  client->Fail(absl::UnavailableError("gone"));
  client->ResumeWaits();
  EXPECT_EQ(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong).status().code(),
            StatusCode::kUnavailable);
}

TEST(ChannelHeartbeatTest, IsAnsweredOnceItWasAskedForAndNotBefore) {
  const auto client = MakeClient(1);
  const auto server = *ConnectServer(*client, 1);
  EXPECT_FALSE(server->heartbeat_wanted());
  for (const bool in_long_call : {false, true, false}) {
    client->AskForHeartbeat();
    EXPECT_FALSE(client->heartbeat().has_value());
    ASSERT_TRUE(server->heartbeat_wanted());
    const absl::Time before = SteadyNow();
    server->AnswerHeartbeat(in_long_call);
    EXPECT_FALSE(server->heartbeat_wanted());
    ASSERT_TRUE(client->heartbeat().has_value());
    EXPECT_EQ(client->heartbeat()->in_long_call, in_long_call);
    EXPECT_GE(client->heartbeat()->time, before);
    EXPECT_LE(client->heartbeat()->time, SteadyNow());
  }
}

TEST(ChannelBackEndTest, AWaitIsSeenUntilItEndsOrASuccessorAttaches) {
  const auto client = MakeClient(1);
  auto server = *ConnectServer(*client, 1);
  EXPECT_FALSE(client->process_awaits_back_end());
  server->SetAwaitsBackEnd(true);
  EXPECT_TRUE(client->process_awaits_back_end());
  server->SetAwaitsBackEnd(false);
  EXPECT_FALSE(client->process_awaits_back_end());
  server->SetAwaitsBackEnd(true);
  server.reset();
  EXPECT_TRUE(client->process_awaits_back_end());
  ASSERT_TRUE(client->PrepareSuccessor(false).ok());
  server = *ConnectServer(*client, 2);
  EXPECT_FALSE(client->process_awaits_back_end());
}

TEST(ChannelHeartbeatTest, WakesADeviceThatSleeps) {
  const auto client = MakeClient(1);
  const auto server = *ConnectServer(*client, 1);
  ASSERT_TRUE(server->PrepareToSleep());
  EXPECT_FALSE(IsReadable(server->event_fd()));
  client->AskForHeartbeat();
  EXPECT_TRUE(IsReadable(server->event_fd()));
  server->AfterSleep();
  EXPECT_FALSE(IsReadable(server->event_fd()));
  EXPECT_TRUE(server->heartbeat_wanted());
}

TEST(ChannelHeartbeatTest, ADeviceSeemsIdleWhileItOwesNothing) {
  const auto client = MakeClient(2);
  const auto server = *ConnectServer(*client, 1);
  EXPECT_TRUE(client->SeemsIdle());
  EXPECT_TRUE(client->Post(0, 0, 0, 8, 1, kLong).ok());
  EXPECT_FALSE(client->SeemsIdle());
  server->Retire(Next(*server));
  EXPECT_FALSE(client->SeemsIdle()) << "the new head is not checked yet";
  EXPECT_EQ(client->OldestPending(1), 0u);
  EXPECT_TRUE(client->SeemsIdle());
  PendingCall call(*client, 0, 0);
  const Request request = Next(*server);
  server->Defer(request);
  EXPECT_NE(client->OldestPending(1), 0u);
  EXPECT_FALSE(client->SeemsIdle());
  server->AnswerDeferred(request, 5);
  EXPECT_TRUE(client->SeemsIdle());
  EXPECT_EQ(*call.Result(), 5u);
}

TEST(ChannelSleepTest, OnlyASleepingDeviceIsSignalled) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  ASSERT_TRUE(client->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  EXPECT_FALSE(IsReadable(server->event_fd()));
  EXPECT_FALSE(server->PrepareToSleep()) << "a request is there";
  ASSERT_TRUE(client->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  EXPECT_FALSE(IsReadable(server->event_fd())) << "it said that it does not sleep";
  server->Retire(Next(*server));
  server->Retire(Next(*server));

  ASSERT_TRUE(server->PrepareToSleep());
  ASSERT_TRUE(client->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  EXPECT_TRUE(IsReadable(server->event_fd()));
  server->AfterSleep();
  EXPECT_FALSE(IsReadable(server->event_fd()));
  EXPECT_EQ(client->device_report().sleeps, 1u);
}

TEST(ChannelSleepTest, OnlyASleepingWaiterIsSignalled) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client);
  const EventFd event(std::move(DuplicateDescriptors(*client).completion_events[0]));
  event.Drain();  // attaching signals every waiter
  EXPECT_FALSE(client->Call(Operation::kRead, 0, 0, 0, 8, 0, kAtOnce).ok());
  server->Complete(Next(*server), 0);
  EXPECT_FALSE(event.IsPending());
}

TEST(ChannelSleepTest, PollingFindsARequestOrOtherWork) {
  auto client = MakeClient(1);
  auto server = *ConnectServer(*client, 1, absl::Milliseconds(1));
  if (AvailableCpus() > 1) {
    int asked = 0;
    EXPECT_TRUE(server->PollForWork([] { return false; }, [&] { return ++asked == 3; }));
    EXPECT_EQ(asked, 3);
    EXPECT_TRUE(server->PollForWork([&] { return ++asked == 6; }, [] { return false; }));
    EXPECT_EQ(asked, 6);
    // A poll that finds other work pays as well as one that finds a request.
    EXPECT_EQ(server->counters().polls, 2);
    EXPECT_EQ(server->counters().poll_hits, 2);
  }
  ASSERT_TRUE(client->Post(0, 0, 0, 8, 0, kAtOnce).ok());
  EXPECT_TRUE(server->PollForRequest());
}

}  // namespace
}  // namespace bulkhead::channel
