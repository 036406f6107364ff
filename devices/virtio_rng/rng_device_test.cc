#include "devices/virtio_rng/rng_device.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

class RngDeviceTest : public testing::Test {
 protected:
  RngDeviceTest()
      : services({{0, 4 << 20}}), model(std::make_unique<RngDevice>()), driver(model, services) {
    EXPECT_TRUE(model.Start(services).ok());
    EXPECT_TRUE(driver.Initialize(kFeatureEventIndex | kFeatureIndirectDescriptors));
  }

  std::vector<uint8_t> Bytes(GuestAddress address, size_t size) {
    std::vector<uint8_t> bytes(size);
    EXPECT_TRUE(services.memory().Read(address, absl::MakeSpan(bytes)));
    return bytes;
  }
  static bool AllZero(const std::vector<uint8_t>& bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
  }

  FakeServices services;
  PciTransport model;
  FakeDriver driver;
};

TEST_F(RngDeviceTest, IsAnEntropyDeviceWithOneQueueAndNoConfiguration) {
  const v1::DeviceInfo info = model.Describe();
  EXPECT_EQ(info.model(), "virtio-rng");
  EXPECT_EQ(info.pci().device_id(), 0x1044u);
  EXPECT_EQ(info.pci().msix_vectors(), 2u);
  EXPECT_EQ(info.required_resources_size(), 0);
  for (const v1::Capability& capability : info.pci().capabilities()) {
    EXPECT_NE(capability.body()[1], static_cast<char>(CapabilityType::kDevice));
  }
}

TEST_F(RngDeviceTest, FillsTheWholeBufferAndNothingElse) {
  const GuestAddress buffer = driver.Allocate(96);
  driver.queue(0).Add({{buffer + 16, 64, true}});
  const UsedElement used = driver.KickAndWait(0).value();
  EXPECT_EQ(used.length, 64u);
  EXPECT_TRUE(AllZero(Bytes(buffer, 16)));
  EXPECT_TRUE(AllZero(Bytes(buffer + 80, 16)));
  // Each eighth is random: the chance that one is all zero is 2^-61.
  for (int i = 0; i < 8; ++i) EXPECT_FALSE(AllZero(Bytes(buffer + 16 + 8 * i, 8))) << i;
  EXPECT_EQ(services.TakeMsixSignals(), std::vector<uint32_t>{1});
}

TEST_F(RngDeviceTest, TwoRequestsGetDifferentBytes) {
  const GuestAddress buffer = driver.Allocate(64);
  for (int i = 0; i < 2; ++i) {
    driver.queue(0).Add({{buffer + 32 * i, 32, true}});
    ASSERT_TRUE(driver.KickAndWait(0).has_value());
  }
  EXPECT_NE(Bytes(buffer, 32), Bytes(buffer + 32, 32));
}

TEST_F(RngDeviceTest, ALargeRequestIsCutAtTheBound) {
  const uint32_t size = RngDevice::kMaxRequestBytes;
  const GuestAddress buffer = driver.Allocate(2 * size);
  driver.queue(0).Add({{buffer, size - 8, true}, {buffer + size, size, true}});
  EXPECT_EQ(driver.KickAndWait(0)->length, size);
  EXPECT_FALSE(AllZero(Bytes(buffer + size, 8)));
  EXPECT_TRUE(AllZero(Bytes(buffer + size + 8, size - 8)));
}

TEST_F(RngDeviceTest, ReadableBuffersAreIgnored) {
  const GuestAddress buffer = driver.Allocate(64);
  driver.queue(0).Add({{buffer, 32, false}, {buffer + 32, 32, true}});
  EXPECT_EQ(driver.KickAndWait(0)->length, 32u);
  EXPECT_TRUE(AllZero(Bytes(buffer, 32)));
  driver.queue(0).Add({{buffer, 32, false}});
  EXPECT_EQ(driver.KickAndWait(0)->length, 0u);
  EXPECT_EQ(driver.status() & kStatusNeedsReset, 0);
}

TEST_F(RngDeviceTest, AFullQueueIsServedInSeveralTurns) {
  const GuestAddress buffer = driver.Allocate(16);
  for (int i = 0; i < RngDevice::kQueueSize; ++i) driver.queue(0).Add({{buffer, 16, true}});
  driver.Kick(0);
  EXPECT_EQ(driver.queue(0).used_idx(), RngDevice::kMaxRequestsPerTurn);
  EXPECT_TRUE(
      services.RunUntil([&] { return driver.queue(0).used_idx() == RngDevice::kQueueSize; }));
}

}  // namespace
}  // namespace bulkhead::devices::virtio
