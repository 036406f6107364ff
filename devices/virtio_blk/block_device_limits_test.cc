// Rate limits of a disk: a burst at once, then as many as the rate allows, over all queues.
#include <stdint.h>

#include <vector>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

TEST(BlockDeviceLimitsTest, ABurstGoesAtOnceAndTheRestAtTheRate) {
  constexpr uint16_t kBurst = 4;
  constexpr uint16_t kRequests = 24;
  const absl::Time start = SteadyNow();
  TestDisk t({.limits = {.operations_per_second = 200, .operations_burst = kBurst}});
  std::vector<TestDisk::Request> requests;
  for (uint16_t i = 0; i < kRequests; ++i) requests.push_back(t.Add(kBlockIn, 8 * i, {}, 4096));
  t.driver->Kick(0);
  ASSERT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() >= kBurst; }));
  ASSERT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() == kRequests; }));
  EXPECT_GE(SteadyNow() - start, absl::Milliseconds(5) * (kRequests - kBurst - 1));
  for (const TestDisk::Request& request : requests) {
    EXPECT_EQ(t.StatusOf(request), kBlockStatusOk);
  }
}

TEST(BlockDeviceLimitsTest, BytesAreLimitedAndFlushesHaveNone) {
  TestDisk t({.limits = {.bytes_per_second = 1 << 20, .bytes_burst = 4096}});
  const absl::Time start = SteadyNow();
  EXPECT_EQ(t.Do(kBlockOut, 0, RandomBytes(128 << 10, 1)).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
  EXPECT_GE(SteadyNow() - start, absl::Milliseconds(115));
  const absl::Time then = SteadyNow();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(0, 256), RandomBytes(128 << 10, 1));
  EXPECT_LT(SteadyNow() - then, absl::Seconds(10));
}

TEST(BlockDeviceLimitsTest, ASuccessorHasNoBurstAndLosesNothing) {
  constexpr uint16_t kRequests = 40;
  TestDisk t({.limits = {.operations_per_second = 400, .operations_burst = 20}});
  const absl::Time start = SteadyNow();
  std::vector<TestDisk::Request> requests;
  for (uint16_t i = 0; i < kRequests; ++i) {
    requests.push_back(t.Add(kBlockOut, 8 * i, RandomBytes(4096, i), 0));
  }
  t.driver->Kick(0);
  for (int i = 0; i < 4; ++i) {
    t.services.RunWatches(5);
    t.model->Restart();
  }
  ASSERT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() == kRequests; }));
  EXPECT_GE(SteadyNow() - start, absl::Milliseconds(2.5) * (kRequests - 20 - 1));
  for (uint16_t i = 0; i < kRequests; ++i) {
    EXPECT_EQ(t.StatusOf(requests[i]), kBlockStatusOk);
    EXPECT_EQ(t.OnDisk(8 * i, 8), RandomBytes(4096, i));
  }
}

TEST(BlockDeviceLimitsTest, QueuesTakeTurns) {
  constexpr uint16_t kRequests = 30;
  TestDisk t({.queues = 2, .limits = {.operations_per_second = 500, .operations_burst = 2}});
  for (const uint16_t queue : {0, 1}) {
    for (uint16_t i = 0; i < kRequests; ++i) t.Add(kBlockIn, 8 * i, {}, 512, queue);
    t.driver->Kick(queue);
  }
  const auto done = [&](uint16_t queue) { return t.driver->queue(queue).used_idx(); };
  ASSERT_TRUE(t.services.RunUntil([&] { return done(0) + done(1) >= kRequests; }));
  EXPECT_GE(done(0), 5);
  EXPECT_GE(done(1), 5);
  ASSERT_TRUE(t.services.RunUntil([&] { return done(0) + done(1) == 2 * kRequests; }));
}

TEST(BlockDeviceLimitsTest, AResetEndsTheWait) {
  TestDisk t({.limits = {.operations_per_second = 1, .operations_burst = 1}});
  for (int i = 0; i < 3; ++i) t.Add(kBlockIn, 0, {}, 512);
  t.driver->Kick(0);
  t.services.RunWatches(5);
  t.model->Reset();
  EXPECT_TRUE(t.services.RunUntil([&] { return t.model->at_rest(); }));
}

}  // namespace
}  // namespace bulkhead::devices::virtio
