#include <stdint.h>

#include <chrono>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"
#include "proto/channel/tick_clock.h"

// What the vmm's end counts.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;
using absl::StatusCode;

constexpr absl::Duration kAtOnce = absl::ZeroDuration();
constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works

class MetricsTest : public testing::Test {
 protected:
  void Post() { ASSERT_TRUE(client_->Post(0, 0, 0, 8, 0, kAtOnce).ok()); }
  StatusCode Call(Operation operation, uint32_t waiter, absl::Duration timeout) {
    return client_->Call(operation, waiter, 0, 0, 8, 0, timeout).status().code();
  }
  void FinishAll() {
    Request request;
    while (server_->TryPeek(request)) {
      if (request.operation == Operation::kPostedWrite) {
        server_->Retire(request);
      } else {
        server_->Complete(request, 0);
      }
    }
  }
  ChannelMetrics metrics() { return client_->metrics(); }

  std::unique_ptr<ChannelClient> client_ =
      *ChannelClient::Create({.slots = 8, .waiters = 2, .max_poll = absl::ZeroDuration()});
  std::unique_ptr<ChannelServer> server_ = *ConnectServer(*client_);
};

TEST_F(MetricsTest, RequestsAreCountedByTheirKindOverAllWaiters) {
  for (int i = 0; i < 3; ++i) Post();
  EXPECT_EQ(Call(Operation::kRead, 0, kAtOnce), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Call(Operation::kRead, 1, kAtOnce), StatusCode::kDeadlineExceeded);
  FinishAll();
  EXPECT_EQ(Call(Operation::kWrite, 1, kAtOnce), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Call(Operation::kSetFunctionState, 1, kAtOnce), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Call(Operation::kReset, 1, kAtOnce), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(metrics().posted_writes, 3u);
  EXPECT_EQ(metrics().reads, 2u);
  EXPECT_EQ(metrics().writes, 1u);
  EXPECT_EQ(metrics().function_states, 1u);
  EXPECT_EQ(metrics().resets, 1u);
}

TEST_F(MetricsTest, CallsThatEndWithoutAnAnswerAreCountedByTheReason) {
  EXPECT_EQ(Call(Operation::kRead, 0, kAtOnce), StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(client_->AwaitAnswer(0, kAtOnce).ok());
  EXPECT_EQ(metrics().timeouts, 2u);
  EXPECT_EQ(metrics().reads, 1u) << "sent once";
  client_->CancelWaits();
  EXPECT_EQ(client_->AwaitAnswer(0, kLong).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(Call(Operation::kRead, 1, kLong), StatusCode::kCancelled);
  client_->ResumeWaits();
  EXPECT_EQ(metrics().cancelled, 2u);
  EXPECT_EQ(metrics().reads, 1u) << "the cancelled one was never sent";
  server_.reset();
  ASSERT_TRUE(client_->PrepareSuccessor(/*discard_requests=*/true).ok());
  EXPECT_EQ(client_->AwaitAnswer(0, kLong).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(metrics().given_up, 1u);
  EXPECT_EQ(metrics().timeouts, 2u);
  EXPECT_EQ(metrics().latency.count, 0u);
}

TEST_F(MetricsTest, ASleptAnswerIsTimedFromItsSending) {
  std::thread vcpu([&] { EXPECT_EQ(Call(Operation::kRead, 0, kLong), StatusCode::kOk); });
  ChannelPeer::AwaitSleep(*client_, 0);
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(3)) {
    std::this_thread::yield();
  }
  FinishAll();
  vcpu.join();
  EXPECT_EQ(metrics().slept_answers, 1u);
  EXPECT_EQ(metrics().polled_answers, 0u);
  EXPECT_EQ(metrics().latency.count, 1u);
  EXPECT_GE(metrics().latency.sum, absl::Microseconds(2900));
  for (size_t i = 0; LatencyHistogram::UpperBoundNanoseconds(i) < 2'900'000; ++i) {
    EXPECT_EQ(metrics().latency.buckets[i], 0u) << i;
  }
}

TEST_F(MetricsTest, AnAnswerThatIsThereAtOnceIsAPolledOne) {
  EXPECT_EQ(Call(Operation::kRead, 0, kAtOnce), StatusCode::kDeadlineExceeded);
  FinishAll();
  EXPECT_TRUE(client_->AwaitAnswer(0, kAtOnce).ok());
  EXPECT_EQ(metrics().polled_answers, 1u);
  EXPECT_EQ(metrics().slept_answers, 0u);
  EXPECT_EQ(metrics().latency.count, 0u) << "its wait was interrupted";
}

TEST_F(MetricsTest, StallsAtAFullRingAreCountedAndTimedWhetherTheyEndWellOrNot) {
  for (int i = 0; i < 8; ++i) Post();
  EXPECT_EQ(metrics().ring_full_stalls, 0u);
  EXPECT_EQ(client_->Post(1, 0, 0, 8, 0, absl::Milliseconds(5)).code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(metrics().ring_full_stalls, 1u);
  EXPECT_GE(metrics().ring_full_time, absl::Microseconds(4900));
  EXPECT_EQ(metrics().timeouts, 1u);
  EXPECT_EQ(metrics().posted_writes, 8u) << "it was not sent";

  std::thread vcpu([&] { EXPECT_TRUE(client_->Post(1, 0, 0, 8, 0, kLong).ok()); });
  ChannelPeer::AwaitSleep(*client_, 1);
  FinishAll();
  vcpu.join();
  EXPECT_EQ(metrics().ring_full_stalls, 2u);
  EXPECT_EQ(metrics().posted_writes, 9u);
}

TEST_F(MetricsTest, OccupancyIsWhatTheRingHoldsAndAtMostHeld) {
  EXPECT_EQ(metrics().occupancy, 0u);
  for (int i = 0; i < 5; ++i) Post();
  EXPECT_EQ(metrics().occupancy, 5u);
  EXPECT_EQ(metrics().max_occupancy, 5u) << "as it is being looked at";
  FinishAll();
  EXPECT_EQ(metrics().occupancy, 0u);
  for (int i = 0; i < 8; ++i) Post();
  EXPECT_EQ(client_->Post(1, 0, 0, 8, 0, kAtOnce).code(), StatusCode::kDeadlineExceeded);
  FinishAll();
  EXPECT_EQ(metrics().occupancy, 0u);
  EXPECT_EQ(metrics().max_occupancy, 8u) << "somebody found it full";
}

TEST_F(MetricsTest, AnImpossibleHeadMakesNoImpossibleOccupancy) {
  const MemoryMapping mapping =
      *MemoryMapping::Map(client_->response_memory_fd(), 0, ResponseView::SizeBytes(2),
                          MemoryMapping::Protection::kReadWrite);
  for (int i = 0; i < 5; ++i) Post();
  for (const uint64_t head : {uint64_t{6}, uint64_t{1000}, UINT64_MAX}) {
    ResponseView(mapping.data()).header().head.store(head);
    EXPECT_EQ(metrics().occupancy, 5u) << head;
  }
}

TEST(LatencyHistogramTest, EachTimeFallsIntoTheFirstBucketThatIsLongEnough) {
  for (const uint64_t ns : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{4},
                            uint64_t{1000}, (uint64_t{1} << 31) - 1, uint64_t{1} << 31,
                            uint64_t{1} << 32, uint64_t{1} << 60, UINT64_MAX}) {
    const size_t bucket = LatencyHistogram::BucketOf(ns);
    ASSERT_LT(bucket, LatencyHistogram::kBuckets);
    EXPECT_LE(ns, LatencyHistogram::UpperBoundNanoseconds(bucket));
    if (bucket > 0) {
      EXPECT_GT(ns, LatencyHistogram::UpperBoundNanoseconds(bucket - 1));
    }
  }
  EXPECT_EQ(LatencyHistogram::UpperBoundNanoseconds(LatencyHistogram::kBuckets - 1), UINT64_MAX);
}

TEST(TickClockTest, AgreesWithTheSteadyClock) {
  using SteadyClock = std::chrono::steady_clock;
  const TickClock clock;
  const auto outer_start = SteadyClock::now();
  const uint64_t start = clock.Now();
  const auto inner_start = SteadyClock::now();
  while (SteadyClock::now() - inner_start < std::chrono::milliseconds(20)) {
  }
  const double inner = std::chrono::nanoseconds(SteadyClock::now() - inner_start).count();
  const double measured = static_cast<double>(clock.NanosecondsSince(start));
  const double outer = std::chrono::nanoseconds(SteadyClock::now() - outer_start).count();
  EXPECT_GE(measured, inner * 0.99);
  EXPECT_LE(measured, outer * 1.01);
}

TEST(TickClockTest, ACounterThatIsBehindMakesNoHugeTime) {
  const TickClock clock;
  EXPECT_EQ(clock.NanosecondsSince(UINT64_MAX), 0u);
}

}  // namespace
}  // namespace bulkhead::channel
