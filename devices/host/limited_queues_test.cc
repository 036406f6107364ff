#include "devices/host/limited_queues.h"

#include <stdint.h>

#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "devices/host/rate_limiter.h"
#include "devices/host/testing/fake_services.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::devices {
namespace {

using ::testing::ElementsAre;

// What a turn takes: 100 ms of tokens, of which a bucket has one.
constexpr uint64_t kTurn = 100;

class LimitedQueuesTest : public testing::Test {
 protected:
  void Start(LimitedQueues& limited, const RateLimits& limits, std::function<void()> on_tokens) {
    ASSERT_TRUE(limited.Start(services, limits, 3, debt, std::move(on_tokens)).ok());
  }

  FakeServices services;
  RateDebt debt = {};
  LimitedQueues queues;
};

TEST_F(LimitedQueuesTest, WithoutLimitsNothingWaits) {
  Start(queues, {}, [] { FAIL(); });
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(queues.MustWait(0));
    queues.Take(1, uint64_t{1} << 30);
  }
  EXPECT_EQ(queues.NextTurn(), std::nullopt);
  EXPECT_EQ(queues.times_limited(), 0u);
}

TEST_F(LimitedQueuesTest, QueuesThatHaveWaitedTakeTurns) {
  std::vector<uint32_t> turns;
  Start(queues, {.operations_per_second = 1000, .operations_burst = 1}, [&] {
    const auto queue = queues.NextTurn();
    ASSERT_TRUE(queue.has_value());
    turns.push_back(*queue);
    queues.Take(kTurn, 0);
    EXPECT_TRUE(queues.MustWait(*queue));
  });
  queues.Take(kTurn, 0);
  EXPECT_TRUE(queues.MustWait(2));
  EXPECT_TRUE(queues.MustWait(0));
  EXPECT_TRUE(queues.MustWait(1));
  ASSERT_TRUE(services.RunUntil([&] { return turns.size() == 6; }));
  EXPECT_THAT(turns, ElementsAre(0, 1, 2, 0, 1, 2));
}

// A turn may leave a queue that no longer wants anything, and no token: others must not be
// forgotten.
TEST_F(LimitedQueuesTest, AQueueThatStillWaitsGetsItsTurnThoughTheOneBeforeAsksForNoMore) {
  std::vector<uint32_t> turns;
  Start(queues, {.operations_per_second = 1000, .operations_burst = 1}, [&] {
    while (const auto queue = queues.NextTurn()) {
      turns.push_back(*queue);
      queues.Take(kTurn, 0);
    }
  });
  queues.Take(kTurn, 0);
  for (const uint32_t queue : {0, 1, 2}) EXPECT_TRUE(queues.MustWait(queue));
  ASSERT_TRUE(services.RunUntil([&] { return turns.size() == 3; }));
  EXPECT_THAT(turns, ElementsAre(0, 1, 2));
}

TEST_F(LimitedQueuesTest, ASuccessorOwesWhatItsPredecessorDid) {
  Start(queues, {.bytes_per_second = 1 << 20}, [] {});
  const absl::Time begin = SteadyNow();
  queues.Take(1, 1 << 19);
  bool ended = false;
  LimitedQueues successor;
  Start(successor, {.bytes_per_second = 1 << 20}, [&] { ended = true; });
  successor.Resume();
  EXPECT_TRUE(successor.MustWait(0));
  ASSERT_TRUE(services.RunUntil([&] { return ended; }));
  // Less the burst, which is what comes in 100 ms.
  EXPECT_GE(SteadyNow() - begin, absl::Milliseconds(390));
}

}  // namespace
}  // namespace bulkhead::devices
