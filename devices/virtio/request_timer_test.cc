#include "devices/virtio/request_timer.h"

#include <stdint.h>

#include <set>

#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kMicrosecond = 1000;
constexpr uint64_t kMillisecond = 1'000'000;

// A queue whose clock stands still unless a test moves it.
class RequestTimerTest : public testing::Test {
 protected:
  // True: it is timed.
  bool Take(uint16_t head) {
    if (!timer_.Wants(head)) return false;
    timer_.Begin(head, now_ns_);
    return true;
  }
  // The time that was measured; 0: none.
  uint64_t Complete(uint16_t head) { return timer_.IsTimed(head) ? timer_.End(now_ns_) : 0; }

  // One request after the other, each `latency_ns`, and `pause_ns` in between. Returns how many
  // were timed.
  int Serve(int count, uint64_t latency_ns, uint64_t pause_ns) {
    int timed = 0;
    for (int i = 0; i < count; ++i) {
      Take(5);
      now_ns_ += latency_ns;
      const uint64_t time_ns = Complete(5);
      if (time_ns != 0) {
        EXPECT_EQ(time_ns, latency_ns);
        ++timed;
      }
      now_ns_ += pause_ns;
    }
    return timed;
  }

  uint64_t now_ns_ = 1'000'000'000;
  RequestTimer timer_;
};

TEST_F(RequestTimerTest, EachRequestOfAQueueWithLittleToDoIsTimed) {
  EXPECT_EQ(Serve(1000, 80 * kMicrosecond, 2 * kMillisecond), 1000);
}

TEST_F(RequestTimerTest, OfABusyQueueFewAreTimed) {
  const int timed = Serve(100'000, 4 * kMicrosecond, kMicrosecond);
  // One of 1 + kMostSkipped / 2.
  EXPECT_GT(timed, 100'000 / 36);
  EXPECT_LT(timed, 100'000 / 29);
}

TEST_F(RequestTimerTest, ABusyQueueThatHasLittleToDoAgainIsTimedSoon) {
  Serve(100'000, 4 * kMicrosecond, kMicrosecond);
  Serve(RequestTimer::kMostSkipped + 1, 80 * kMicrosecond, 2 * kMillisecond);
  EXPECT_EQ(Serve(100, 80 * kMicrosecond, 2 * kMillisecond), 100);
}

TEST_F(RequestTimerTest, OneIsTimedAtATime) {
  ASSERT_TRUE(Take(3));
  now_ns_ += kMicrosecond;
  EXPECT_FALSE(Take(4));
  now_ns_ += kMicrosecond;
  EXPECT_EQ(Complete(4), 0u);
  EXPECT_EQ(Complete(3), 2 * kMicrosecond);
  EXPECT_EQ(Complete(3), 0u);
}

// The first one of a burst is the first to be done, too.
TEST_F(RequestTimerTest, EachPlaceInABurstIsTimedNowAndThen) {
  std::set<uint16_t> timed;
  for (int burst = 0; burst < 2000; ++burst) {
    for (uint16_t head = 0; head < 32; ++head) {
      if (Take(head)) timed.insert(head);
    }
    now_ns_ += kMicrosecond;
    for (uint16_t head = 0; head < 32; ++head) Complete(head);
    now_ns_ += 10 * kMillisecond;
  }
  EXPECT_EQ(timed.size(), 32u);
}

TEST_F(RequestTimerTest, ARegularPatternDoesNotDecideWhichAreTimed) {
  int timed[2] = {};
  for (int i = 0; i < 100'000; ++i) {
    timed[i % 2] += Take(7) ? 1 : 0;
    now_ns_ += 5 * kMicrosecond;
    Complete(7);
  }
  EXPECT_GT(timed[0], 1000);
  EXPECT_GT(timed[1], 1000);
}

TEST_F(RequestTimerTest, AHeadThatIsTakenAgainIsTimedFromThen) {
  ASSERT_TRUE(Take(3));
  now_ns_ += 10 * kMillisecond;
  EXPECT_TRUE(Take(3));
  now_ns_ += kMicrosecond;
  EXPECT_EQ(Complete(3), kMicrosecond);
}

TEST_F(RequestTimerTest, WhatWasTimedAtAResetIsForgotten) {
  ASSERT_TRUE(Take(3));
  timer_.Drop();
  now_ns_ += 10 * kMillisecond;
  EXPECT_EQ(Complete(3), 0u);
  ASSERT_TRUE(Take(3));
  now_ns_ += kMicrosecond;
  EXPECT_EQ(Complete(3), kMicrosecond);
}

TEST_F(RequestTimerTest, ARequestThatNeverEndsIsNotTheLastOne) {
  ASSERT_TRUE(Take(3));
  uint32_t others = 1;
  while (!Take(4)) {
    ASSERT_EQ(Complete(4), 0u);
    ASSERT_LT(++others, 100'000u);
  }
  EXPECT_EQ(others, RequestTimer::kMostMeanwhile);
  now_ns_ += kMicrosecond;
  EXPECT_EQ(Complete(3), 0u) << "it ends at last";
  EXPECT_EQ(Complete(4), kMicrosecond);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
