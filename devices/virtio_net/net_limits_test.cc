// Rate limits of a network device: each direction has a burst at once, then as many as the rate
// allows.
#include <stdint.h>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "devices/virtio_net/testing/test_net.h"
#include "gtest/gtest.h"
#include "proto/net_link.h"

namespace bulkhead::devices::virtio {
namespace {

class NetLimitsTest : public NetDeviceTest {
 protected:
  static constexpr uint16_t kBurst = 4;
  static constexpr int kFrames = 14;
  // The least that kFrames take, at 100 a second.
  static inline const absl::Duration kLeast = absl::Milliseconds(10) * (kFrames - kBurst - 1);

  NetLimitsTest()
      : NetDeviceTest({.mac = kMac,
                       .pairs = 2,
                       .queue_size = 16,
                       .limits = {.operations_per_second = 100, .operations_burst = kBurst}}) {}

  void AddSends(int count) {
    for (int i = 0; i < count; ++i) {
      driver->queue(kSend).Add({{Place(Frame(60)), 72, false}});
    }
    driver->Kick(kSend);
  }
  int Received() { return driver->queue(kReceive).used_idx(); }
  int Sent() { return driver->queue(kSend).used_idx(); }
};

TEST_F(NetLimitsTest, FramesOfTheGuestWaitInItsQueue) {
  ASSERT_TRUE(driver->Initialize(kAll));
  const absl::Time start = SteadyNow();
  AddSends(kFrames);
  EXPECT_LT(Sent(), kFrames);
  ASSERT_TRUE(services.RunUntil([&] { return Sent() == kFrames; }));
  EXPECT_GE(SteadyNow() - start, kLeast);
  for (int i = 0; i < kFrames; ++i) EXPECT_EQ(FromGuest(), Frame(60)) << i;
  EXPECT_GT(Metric("send_limited_total"), 0);
  EXPECT_EQ(Metric("receive_limited_total"), 0);
}

TEST_F(NetLimitsTest, FramesToTheGuestWaitInTheTapAndQueuesTakeTurns) {
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(16);
  const absl::Time start = SteadyNow();
  for (int i = 0; i < kFrames / 2; ++i) {
    ToGuest(Frame(60), 0);
    ToGuest(Frame(60), 1);
  }
  ASSERT_TRUE(services.RunUntil([&] { return Received() == kFrames; }));
  EXPECT_GE(SteadyNow() - start, kLeast);
  EXPECT_GT(Metric("receive_limited_total"), 0);
  EXPECT_EQ(Metric("dropped_total"), 0);
}

// While one direction waits the other one has its whole burst.
TEST_F(NetLimitsTest, NoDirectionTakesFromTheOther) {
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(16);
  AddSends(kFrames);
  const int sent = Sent();
  for (int i = 0; i < kBurst; ++i) ToGuest(Frame(60));
  services.RunWatches(0);
  EXPECT_EQ(Received(), kBurst);
  EXPECT_LT(sent, kFrames);
  ASSERT_TRUE(services.RunUntil([&] { return Sent() == kFrames; }));
}

TEST_F(NetLimitsTest, ASuccessorHasNoBurstAndLosesNothing) {
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(16);
  const absl::Time start = SteadyNow();
  AddSends(kFrames);
  for (int i = 0; i < kFrames; ++i) ToGuest(Frame(60));
  for (int i = 0; i < 4; ++i) {
    services.RunWatches(5);
    model->Restart();
  }
  ASSERT_TRUE(services.RunUntil([&] { return Sent() == kFrames && Received() == kFrames; }));
  EXPECT_GE(SteadyNow() - start, kLeast);
}

TEST_F(NetLimitsTest, AResetEndsTheWaitAndALinkThatGoesDownDoesNotStopIt) {
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(8);
  for (int i = 0; i < 6; ++i) ToGuest(Frame(60));
  services.RunWatches(0);
  SetLink(kLinkDown);
  AddSends(6);
  ASSERT_TRUE(services.RunUntil([&] { return Sent() == 6; }));
  SetLink(kLinkUp);
  AddSends(6);
  model->Reset();
  EXPECT_TRUE(services.RunUntil([&] { return model->at_rest(); }));
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(4);
  ToGuest(Frame(60));
  EXPECT_TRUE(services.RunUntil([&] { return Received() == 1; }));
}

class NetByteLimitTest : public NetDeviceTest {
 protected:
  NetByteLimitTest()
      : NetDeviceTest({.mac = kMac,
                       .queue_size = 16,
                       .limits = {.bytes_per_second = 100'000, .bytes_burst = 1000}}) {}
};

TEST_F(NetByteLimitTest, BytesAreThoseOfTheFramesWithoutTheirHeaders) {
  ASSERT_TRUE(driver->Initialize(kAll));
  const absl::Time start = SteadyNow();
  // 20,000 bytes, of which 1,000 go at once and the last frame need not be paid for.
  for (int i = 0; i < 14; ++i) {
    driver->queue(kSend).Add({{Place(Frame(1428)), 1440, false}});
  }
  driver->Kick(kSend);
  ASSERT_TRUE(services.RunUntil([&] { return driver->queue(kSend).used_idx() == 14; }));
  EXPECT_GE(SteadyNow() - start, absl::Milliseconds(170));
  EXPECT_EQ(Metric("sent_bytes_total"), 14 * 1428);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
