#include "devices/virtio/pci_transport.h"

#include <string.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_bar.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/holding_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"
#include "proto/contract.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kAllFeatures = ~uint64_t{0};
constexpr uint64_t kTypeFeature = HoldingDevice::kFeature;
constexpr uint16_t kQueueSize1 = HoldingDevice::kQueueSizes[1];
constexpr uint32_t kConfigSize = HoldingDevice::kConfigSize;

class PciTransportTest : public testing::Test {
 protected:
  PciTransportTest() {
    auto owned = std::make_unique<HoldingDevice>();
    device = owned.get();
    model = std::make_unique<PciTransport>(std::move(owned));
    EXPECT_TRUE(model->Start(services).ok());
    driver = std::make_unique<FakeDriver>(*model, services);
  }

  uint16_t AddChain(uint16_t queue) {
    return *driver->queue(queue).Add({{driver->Allocate(16), 16, true}});
  }

  FakeServices services;
  HoldingDevice* device;
  std::unique_ptr<PciTransport> model;
  std::unique_ptr<FakeDriver> driver;
};

TEST_F(PciTransportTest, DescribesAModernVirtioFunction) {
  const v1::DeviceInfo info = model->Describe();
  EXPECT_EQ(info.contract_version(), kContractVersion);
  EXPECT_EQ(info.pci().vendor_id(), 0x1af4u);
  EXPECT_EQ(info.pci().device_id(), 0x1040u + 42);
  EXPECT_EQ(info.pci().revision_id(), 1u);
  EXPECT_GE(info.pci().subsystem_id(), 0x40u);
  EXPECT_EQ(info.pci().class_code(), 0x123456u);
  EXPECT_EQ(info.pci().msix_vectors(), 3u) << "two queues and configuration changes";
  EXPECT_TRUE(info.pci().has_intx());
  ASSERT_EQ(info.pci().bars_size(), 1);
  EXPECT_EQ(info.pci().bars(0).size_bytes(), kBarSize);
  ASSERT_EQ(info.doorbells_size(), 2);
  EXPECT_EQ(info.doorbells(1).offset(), kBarNotify + 4);
  EXPECT_EQ(info.doorbells(1).size_bytes(), 0u);
  ASSERT_EQ(info.required_resources_size(), 1);
  EXPECT_EQ(info.required_resources(0), "thing");
}

TEST_F(PciTransportTest, CapabilitiesDescribeTheirStructures) {
  struct Expected {
    CapabilityType type;
    uint32_t offset, length, size;
  };
  const Expected kExpected[] = {{CapabilityType::kCommon, kBarCommon, 60, 16},
                                {CapabilityType::kNotify, kBarNotify, 8, 20},
                                {CapabilityType::kIsr, kBarIsr, 1, 16},
                                {CapabilityType::kDevice, kBarDevice, kConfigSize, 16},
                                {CapabilityType::kPciConfig, 0, 0, 20}};
  const v1::DeviceInfo info = model->Describe();
  ASSERT_EQ(info.pci().capabilities_size(), 5);
  for (int i = 0; i < 5; ++i) {
    const v1::Capability& capability = info.pci().capabilities(i);
    EXPECT_EQ(capability.id(), 9u);
    EXPECT_EQ(capability.forwarded(), kExpected[i].type == CapabilityType::kPciConfig);
    const std::string& body = capability.body();
    ASSERT_EQ(body.size(), kExpected[i].size - 2);
    EXPECT_EQ(body[0], static_cast<char>(kExpected[i].size));
    EXPECT_EQ(body[1], static_cast<char>(kExpected[i].type));
    uint32_t place[2];
    memcpy(place, &body[6], 8);
    EXPECT_EQ(place[0], kExpected[i].offset);
    EXPECT_EQ(place[1], kExpected[i].length);
  }
  uint32_t multiplier;
  memcpy(&multiplier, &info.pci().capabilities(1).body()[14], 4);
  EXPECT_EQ(multiplier, 4u);
}

TEST_F(PciTransportTest, InitializesAsLinuxDoesAndServesADoorbell) {
  ASSERT_TRUE(driver->Initialize(kTypeFeature | kFeatureEventIndex));
  EXPECT_EQ(device->negotiated.back(), kTypeFeature | kFeatureEventIndex | kFeatureVersion1);
  const uint16_t head = AddChain(1);
  driver->Kick(1);
  ASSERT_EQ(device->held[1].size(), 1u);
  device->Release(1);
  EXPECT_EQ(services.TakeMsixSignals(), std::vector<uint32_t>{2});
  EXPECT_EQ(driver->queue(1).PopUsed()->id, head);
  EXPECT_FALSE(services.intx());
}

// --- Registers ----------------------------------------------------------------------------------

struct RegisterCase {
  const char* name;
  uint64_t offset;
  uint8_t size;
  uint64_t initial;
  uint64_t write;
  uint64_t after;
};

TEST_F(PciTransportTest, RegistersAfterReset) {
  constexpr uint64_t kNone = kNoVector;
  constexpr uint64_t kHighFeatures = (kFeatureVersion1 | kFeatureRingReset) >> 32;
  const RegisterCase kCases[] = {
      {"device_feature_select", 0, 4, 0, 1, 1},
      {"device_feature is read-only", 4, 4, kHighFeatures, 0xffff, kHighFeatures},
      {"driver_feature_select", 8, 4, 0, 0xffffffff, 0xffffffff},
      {"driver_feature of no word", 12, 4, 0, 0x1234, 0},
      {"config_msix_vector", 16, 2, kNone, 2, 2},
      {"config_msix_vector out of range", 16, 2, 2, 3, kNone},
      {"num_queues is read-only", 18, 2, 2, 7, 2},
      {"config_generation is read-only", 21, 1, 0, 7, 0},
      {"queue_size before FEATURES_OK", 24, 2, 8, 4, 8},
      {"queue_msix_vector", 26, 2, kNone, 0, 0},
      {"queue_msix_vector out of range", 26, 2, 0, 0x8000, kNone},
      {"queue_enable before FEATURES_OK", 28, 2, 0, 1, 0},
      {"queue_notify_off is read-only", 30, 2, 0, 5, 0},
      {"queue_desc before FEATURES_OK", 32, 8, 0, 0x1000, 0},
      {"queue_driver before FEATURES_OK", 40, 8, 0, 0x1000, 0},
      {"queue_device before FEATURES_OK", 48, 8, 0, 0x1000, 0},
      {"queue_reset without the feature", 58, 2, 0, 1, 0},
      {"queue_select of no queue", 22, 2, 0, 2, 2},
      {"queue_size of no queue", 24, 2, 0, 8, 0},
      {"queue_msix_vector of no queue", 26, 2, 0, 1, 0},
      {"queue_enable of no queue", 28, 2, 0, 1, 0},
      {"behind the structure", 60, 4, 0, 0xffffffff, 0},
      {"end of the page", 0xffc, 8, 0, ~uint64_t{0}, 0},
      {"device configuration", kBarDevice, 4, 0x04030201, 0xaabbccdd, 0xaabbccdd},
      {"across the end of device configuration", kBarDevice + 4, 4, 0x0605, 0x99887766, 0x7766},
      {"behind device configuration", kBarDevice + kConfigSize, 2, 0, 0xffff, 0},
      {"notify area reads 0", kBarNotify, 4, 0, 0, 0},
      {"end of the BAR", kBarSize - 8, 8, 0, ~uint64_t{0}, 0},
  };
  for (const RegisterCase& c : kCases) {
    const uint64_t mask = c.size == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * c.size)) - 1;
    const uint64_t initial = model->Read(0, c.offset, c.size) & mask;
    EXPECT_EQ(initial, c.initial) << c.name;
    model->Write(0, c.offset, c.size, c.write);
    EXPECT_EQ(model->Read(0, c.offset, c.size) & mask, c.after) << c.name;
  }
}

TEST_F(PciTransportTest, EveryAccessWidthAndAlignmentAgreesWithTheBytes) {
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  driver->Set(kQueueDescriptors, 8, 0x1122334455667780);
  driver->Set(kQueueDriver, 8, 0x99aabbccddeeff02);
  std::vector<uint8_t> bytes;
  for (uint64_t i = 0; i < 72; ++i) bytes.push_back(static_cast<uint8_t>(model->Read(0, i, 1)));
  for (const uint8_t size : {2, 4, 8}) {
    for (uint64_t offset = 0; offset + size <= bytes.size(); ++offset) {
      uint64_t expected = 0;
      memcpy(&expected, &bytes[offset], size);
      EXPECT_EQ(model->Read(0, offset, size), expected) << offset << " x " << int{size};
    }
  }
}

TEST_F(PciTransportTest, PartialAndSpanningWritesChangeTheirBytesOnly) {
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  model->Write(0, kQueueDescriptors, 8, 0x1111111111111111);
  model->Write(0, kQueueDescriptors + 3, 2, 0xabcd);
  EXPECT_EQ(model->Read(0, kQueueDescriptors, 8), 0x111111abcd111111u);
  model->Write(0, kQueueDescriptors + 6, 4, 0x44332211);  // into queue_driver
  EXPECT_EQ(model->Read(0, kQueueDescriptors, 8), 0x221111abcd111111u);
  EXPECT_EQ(model->Read(0, kQueueDriver, 8), 0x4433u);
}

// --- Status ------------------------------------------------------------------------------------

struct StatusCase {
  const char* name;
  uint64_t features;
  std::vector<uint8_t> writes;
  uint8_t status;
};

TEST_F(PciTransportTest, StatusFollowsTheInitializationSequence) {
  constexpr uint8_t kAck = kStatusAcknowledge, kDrv = kStatusDriver, kFeat = kStatusFeaturesOk,
                    kOk = kStatusDriverOk;
  const StatusCase kCases[] = {
      {"in order", kFeatureVersion1, {kAck, kAck | kDrv, kAck | kDrv | kFeat, 15}, 15},
      {"all at once", kFeatureVersion1, {kAck | kDrv | kFeat | kOk}, 15},
      {"without VERSION_1", kFeatureEventIndex, {kAck | kDrv, kAck | kDrv | kFeat}, kAck | kDrv},
      {"with a feature not offered",
       kFeatureVersion1 | uint64_t{1} << 63,
       {kAck | kDrv, kAck | kDrv | kFeat},
       kAck | kDrv},
      {"FEATURES_OK from nowhere", kFeatureVersion1, {kFeat}, 0},
      {"DRIVER_OK without FEATURES_OK", kFeatureVersion1, {kAck | kDrv | kOk}, kAck | kDrv},
      {"bits cannot be cleared", kFeatureVersion1, {kAck | kDrv | kFeat, kAck}, 11},
      {"a driver cannot ask for a reset", kFeatureVersion1, {kAck | kStatusNeedsReset}, kAck},
      {"unknown bits", kFeatureVersion1, {kAck | 0x30}, kAck},
      {"FAILED", kFeatureVersion1, {kAck | kStatusFailed}, kAck | kStatusFailed},
      {"reset", kFeatureVersion1, {kAck | kDrv | kFeat | kOk, 0}, 0},
  };
  for (const StatusCase& c : kCases) {
    ASSERT_TRUE(driver->Reset());
    driver->SetDriverFeatures(c.features);
    for (const uint8_t value : c.writes) driver->Set(kDeviceStatus, 1, value);
    EXPECT_EQ(driver->status(), c.status) << c.name;
  }
}

TEST_F(PciTransportTest, FeaturesAreFixedByFeaturesOk) {
  ASSERT_TRUE(driver->Negotiate(kTypeFeature));
  driver->SetDriverFeatures(0);
  driver->Set(kDriverFeatureSelect, 4, 0);
  EXPECT_EQ(driver->Get(kDriverFeature, 4), kTypeFeature);
}

TEST_F(PciTransportTest, QueuesCanBeChangedBetweenFeaturesOkAndDriverOkOnly) {
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  driver->SetUpQueue(0, 4);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 1u);
  driver->Set(kQueueSize, 2, 8);
  EXPECT_EQ(driver->Get(kQueueSize, 2), 4u) << "an enabled queue is fixed";
  driver->Set(kQueueEnable, 2, 0);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 1u) << "only a reset disables";
  driver->Set(kDeviceStatus, 1, driver->status() | kStatusDriverOk);
  driver->SetUpQueue(1, 4);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 0u);
  EXPECT_EQ(driver->Get(kQueueSize, 2), kQueueSize1);
}

TEST_F(PciTransportTest, AnImpossibleQueueAsksForAReset) {
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  driver->Set(kQueueDescriptors, 8, uint64_t{1} << 40);
  driver->Set(kQueueEnable, 2, 1);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 0u);
  EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
  EXPECT_TRUE(driver->Reset());
}

TEST_F(PciTransportTest, DoorbellsBeforeDriverOkDoNothingAndDriverOkLooks) {
  model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  driver->SetUpQueue(0, 8);
  AddChain(0);
  model->OnDoorbell(0);
  EXPECT_EQ(device->turns[0], 0);
  driver->Set(kDeviceStatus, 1, driver->status() | kStatusDriverOk);
  EXPECT_EQ(device->held[0].size(), 1u);
}

TEST_F(PciTransportTest, SpuriousDoorbellsAreHarmless) {
  model->OnDoorbell(0);
  model->OnDoorbell(99);
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  model->OnDoorbell(0);
  model->OnDoorbell(0xffffffff);
  model->Write(0, kBarSize - 4, 4, 1);
  EXPECT_EQ(device->held[0].size(), 0u);
}

TEST_F(PciTransportTest, AWriteToTheNotifyAreaIsADoorbell) {
  ASSERT_TRUE(driver->Initialize(0));
  AddChain(1);
  model->Write(0, kBarNotify + 4, 2, 1);
  EXPECT_EQ(device->held[1].size(), 1u);
}

// --- Bus mastering -------------------------------------------------------------------------------

TEST_F(PciTransportTest, WithoutBusMasteringNothingIsPoppedAndEnablingLooksAgain) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  model->OnFunctionState({.bus_master = false, .msix_enabled = true});
  EXPECT_FALSE(device->virtio->dma_allowed());
  AddChain(0);
  AddChain(1);
  model->OnDoorbell(0);
  EXPECT_EQ(device->held[0].size(), 0u);
  model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_EQ(device->held[0].size(), 1u);
  EXPECT_EQ(device->held[1].size(), 1u);
}

// --- Interrupts ----------------------------------------------------------------------------------

TEST_F(PciTransportTest, WithoutMsixTheIsrTellsTheCauseAndReadingItLowersTheLine) {
  ASSERT_TRUE(driver->Initialize(0));
  model->OnFunctionState({.bus_master = true, .msix_enabled = false});
  AddChain(0);
  driver->Kick(0);
  device->Release(0);
  EXPECT_TRUE(services.intx());
  EXPECT_TRUE(services.TakeMsixSignals().empty());
  EXPECT_EQ(driver->ReadIsr(), kIsrQueue);
  EXPECT_FALSE(services.intx());
  EXPECT_EQ(driver->ReadIsr(), 0);
}

TEST_F(PciTransportTest, EnablingMsixReleasesTheLine) {
  ASSERT_TRUE(driver->Initialize(0));
  model->OnFunctionState({.bus_master = true, .msix_enabled = false});
  AddChain(0);
  driver->Kick(0);
  device->Release(0);
  model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_FALSE(services.intx());
}

TEST_F(PciTransportTest, AQueueWithoutVectorInterruptsNobody) {
  ASSERT_TRUE(driver->Initialize(0));
  driver->Set(kQueueSelect, 2, 0);
  driver->Set(kQueueMsixVector, 2, kNoVector);
  AddChain(0);
  driver->Kick(0);
  device->Release(0);
  EXPECT_TRUE(services.TakeMsixSignals().empty());
  EXPECT_FALSE(services.intx());
  EXPECT_EQ(driver->queue(0).used_idx(), 1);
}

TEST_F(PciTransportTest, ABrokenRuleSetsNeedsResetAndInterruptsOnce) {
  ASSERT_TRUE(driver->Initialize(0));
  AddChain(1);
  driver->queue(0).MakeAvailable(1000);
  driver->Kick(0);
  EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
  EXPECT_EQ(services.TakeMsixSignals(), std::vector<uint32_t>{0});
  driver->Kick(1);
  EXPECT_EQ(device->held[1].size(), 0u) << "all queues stop";
  device->virtio->Fail("again");
  EXPECT_TRUE(services.TakeMsixSignals().empty());
  ASSERT_TRUE(driver->Initialize(0));
  AddChain(0);
  driver->Kick(0);
  EXPECT_EQ(device->held[0].size(), 1u) << "works again after the reset";
}

// --- Reset ---------------------------------------------------------------------------------------

TEST_F(PciTransportTest, ResetReturnsEveryRegisterToItsInitialValue) {
  std::vector<uint64_t> initial;
  for (uint32_t i = kDriverFeatureSelect; i < 64; ++i) initial.push_back(driver->Get(i, 1));
  ASSERT_TRUE(driver->Initialize(kAllFeatures, 4));
  model->OnFunctionState({.bus_master = true, .msix_enabled = false});
  device->virtio->Fail("raises the line");
  EXPECT_TRUE(services.intx());
  ASSERT_TRUE(driver->Reset());
  EXPECT_FALSE(services.intx());
  EXPECT_EQ(driver->ReadIsr(), 0);
  driver->Set(kQueueSelect, 2, 0);
  driver->Set(kDriverFeatureSelect, 4, 0);
  for (uint32_t i = kDriverFeatureSelect; i < 64; ++i) {
    EXPECT_EQ(driver->Get(i, 1), initial[i - kDriverFeatureSelect]) << i;
  }
  EXPECT_EQ(device->negotiated.back(), 0u);
}

TEST_F(PciTransportTest, ResetWaitsForChainsInFlightAndTouchesNoGuestMemoryAfterwards) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  device->slow_to_stop = true;
  AddChain(0);
  AddChain(1);
  driver->Kick(0);
  driver->Kick(1);
  driver->Set(kDeviceStatus, 1, 0);
  EXPECT_NE(driver->status(), 0) << "two chains are in flight";
  EXPECT_EQ(device->stopping_calls[0], 1);
  EXPECT_EQ(device->stopping_calls[1], 1);
  // What the driver writes meanwhile has no effect.
  driver->Set(kDeviceStatus, 1, kStatusAcknowledge);
  AddChain(0);
  model->OnDoorbell(0);
  EXPECT_EQ(device->held[0].size(), 1u);

  device->Release(0);
  EXPECT_NE(driver->status(), 0);
  EXPECT_EQ(device->negotiated.back() & kFeatureVersion1, kFeatureVersion1);
  device->Release(1);
  EXPECT_EQ(driver->status(), 0);
  EXPECT_EQ(device->negotiated.back(), 0u);
  EXPECT_EQ(driver->queue(0).used_idx(), 0);
  EXPECT_EQ(driver->queue(1).used_idx(), 0);
  EXPECT_TRUE(services.TakeMsixSignals().empty());

  device->slow_to_stop = false;
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  const uint16_t head = AddChain(0);
  driver->Kick(0);
  device->Release(0);
  EXPECT_EQ(driver->queue(0).PopUsed()->id, head);
}

TEST_F(PciTransportTest, OneQueueCanBeResetAndEnabledAgain) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  device->slow_to_stop = true;
  AddChain(0);
  driver->Kick(0);
  driver->Set(kQueueSelect, 2, 0);
  driver->Set(kQueueReset, 2, 1);
  EXPECT_EQ(driver->Get(kQueueReset, 2), 1u) << "a chain is in flight";
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 0u);
  AddChain(1);
  driver->Kick(1);
  EXPECT_EQ(device->held[1].size(), 1u) << "the other queue goes on";

  device->Release(0);
  EXPECT_EQ(driver->Get(kQueueReset, 2), 0u);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 0u);
  EXPECT_EQ(driver->queue(0).used_idx(), 0);
  driver->SetUpQueue(0, 4);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 1u);
  AddChain(0);
  driver->Kick(0);
  EXPECT_EQ(device->held[0].size(), 1u);
  EXPECT_TRUE(driver->status() & kStatusDriverOk);
}

TEST_F(PciTransportTest, ServeLaterComesBackThroughTheEventLoop) {
  ASSERT_TRUE(driver->Initialize(0));
  const int before = device->turns[1];
  device->virtio->ServeLater(1);
  EXPECT_EQ(device->turns[1], before);
  EXPECT_EQ(services.RunWatches(0), 1);
  EXPECT_EQ(device->turns[1], before + 1);
  EXPECT_EQ(services.RunWatches(0), 0);
}

// --- The window in configuration space -----------------------------------------------------------

class ConfigWindowTest : public PciTransportTest {
 protected:
  // As the vmm forwards it: offsets count from the capability's third byte.
  static constexpr uint64_t kData = 14;
  void Point(uint8_t bar, uint32_t offset, uint32_t length) {
    model->Write(region, 2, 1, bar);
    model->Write(region, 6, 4, offset);
    model->Write(region, 10, 4, length);
  }
  const uint8_t region = kCapabilityRegionBase + 4;
};

TEST_F(ConfigWindowTest, ReadsAndWritesRegisters) {
  Point(0, kNumQueues, 2);
  EXPECT_EQ(model->Read(region, kData, 2), 2u);
  Point(0, kDeviceStatus, 1);
  model->Write(region, kData, 1, kStatusAcknowledge);
  EXPECT_EQ(driver->status(), kStatusAcknowledge);
  Point(0, kBarDevice, 4);
  EXPECT_EQ(model->Read(region, kData, 4), 0x04030201u);
  EXPECT_EQ(model->Read(region, 6, 4), kBarDevice);
  EXPECT_EQ(model->Read(region, 10, 4), 4u);
}

TEST_F(ConfigWindowTest, RingsADoorbell) {
  ASSERT_TRUE(driver->Initialize(0));
  AddChain(1);
  Point(0, kBarNotify + 4, 2);
  model->Write(region, kData, 2, 1);
  EXPECT_EQ(device->held[1].size(), 1u);
}

TEST_F(ConfigWindowTest, TheRestOfTheCapabilityIsReadOnly) {
  const uint64_t before = model->Read(region, 0, 2);
  model->Write(region, 0, 2, 0xffff);
  model->Write(region, 3, 2, 0xffff);
  EXPECT_EQ(model->Read(region, 0, 2), before);
  EXPECT_EQ(model->Read(region, 3, 2), 0u);
}

TEST_F(ConfigWindowTest, ImpossibleTargetsDoNothing) {
  struct Target {
    uint8_t bar;
    uint32_t offset, length;
  };
  const Target kTargets[] = {{0, kDeviceStatus, 0}, {0, kDeviceStatus, 3},  {0, 18, 4},
                             {1, kDeviceStatus, 1}, {0, kBarSize, 1},       {0, 0xfffffffc, 4},
                             {0, kDeviceStatus, 8}, {255, kDeviceStatus, 1}};
  for (const Target& target : kTargets) {
    Point(target.bar, target.offset, target.length);
    model->Write(region, kData, 4, 0x01010101);
    model->Read(region, kData, 4);
    EXPECT_EQ(driver->status(), 0);
  }
  // Beyond the capability.
  EXPECT_EQ(model->Read(region, 18, 4), 0u);
  EXPECT_EQ(model->Read(region, 250, 4), 0u);
  model->Write(region, 250, 4, 1);
}

TEST_F(ConfigWindowTest, RegionsThatDoNotExistReadZero) {
  EXPECT_EQ(model->Read(3, 0, 4), 0u);
  model->Write(3, 0, 4, 1);
  EXPECT_EQ(model->Read(region + 1, 0, 4), 0u);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
