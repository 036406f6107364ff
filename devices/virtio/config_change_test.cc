// A device whose configuration changes by itself: what the driver sees, hears, and never misses.
#include <stddef.h>

#include <memory>
#include <utility>
#include <vector>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/saved_state.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/holding_device.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kAllFeatures = ~uint64_t{0};
constexpr uint32_t kConfigVector = 0;  // the one that FakeDriver chooses

class ConfigChangeTest : public testing::Test {
 protected:
  ConfigChangeTest()
      : model(services,
              [this] {
                auto owned = std::make_unique<HoldingDevice>();
                device = owned.get();
                return std::make_unique<PciTransport>(std::move(owned));
              }),
        driver(model, services) {}

  // Any access saves what has changed before.
  void Save() { driver.status(); }
  uint64_t Generation() { return driver.Get(kConfigGeneration, 1); }
  // How often the driver was interrupted for a change since the last call.
  int Interrupts() {
    int count = 0;
    for (const uint32_t vector : services.TakeMsixSignals()) count += vector == kConfigVector;
    return count;
  }
  void SetFunctionState(bool bus_master, bool msix) {
    model.OnFunctionState({.bus_master = bus_master, .msix_enabled = msix});
  }

  DurableServices services;
  HoldingDevice* device = nullptr;
  RestartableDevice model;
  FakeDriver driver;
};

TEST_F(ConfigChangeTest, TheGenerationChangesAndTheDriverIsInterruptedOnce) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  const uint64_t generation = Generation();
  services.TakeMsixSignals();
  device->ChangeConfig(7);
  EXPECT_EQ(services.TakeMsixSignals(), std::vector<uint32_t>{kConfigVector});
  EXPECT_NE(Generation(), generation);
  EXPECT_EQ(driver.ReadConfig(0, 4), 0x07070707u);
  SetFunctionState(false, true);
  SetFunctionState(true, true);
  EXPECT_EQ(Interrupts(), 0);
}

TEST_F(ConfigChangeTest, TheGenerationTellsNeighbouringChangesApart) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  uint64_t last = Generation();
  for (int i = 0; i < 300; ++i) {  // more than it counts to
    device->ChangeConfig(static_cast<uint8_t>(i));
    EXPECT_NE(Generation(), last) << i;
    last = Generation();
  }
}

TEST_F(ConfigChangeTest, WithoutMsixTheIsrSaysWhatItIs) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  SetFunctionState(true, false);
  driver.ReadIsr();
  device->ChangeConfig(7);
  EXPECT_TRUE(services.intx());
  EXPECT_EQ(driver.ReadIsr(), kIsrConfig);
  EXPECT_FALSE(services.intx());
  EXPECT_EQ(driver.ReadIsr(), 0);
}

TEST_F(ConfigChangeTest, ADriverThatWantsNoSuchInterruptGetsNone) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  driver.Set(kConfigMsixVector, 2, kNoVector);
  services.TakeMsixSignals();
  device->ChangeConfig(7);
  driver.Set(kConfigMsixVector, 2, kConfigVector);
  EXPECT_TRUE(services.TakeMsixSignals().empty());
}

TEST_F(ConfigChangeTest, TheInterruptWaitsForBusMastering) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  SetFunctionState(false, true);
  services.TakeMsixSignals();
  device->ChangeConfig(7);
  device->ChangeConfig(8);
  EXPECT_EQ(Interrupts(), 0);
  SetFunctionState(true, true);
  EXPECT_EQ(Interrupts(), 1) << "one for all";
}

TEST_F(ConfigChangeTest, TheInterruptWaitsForDriverOk) {
  SetFunctionState(true, true);
  ASSERT_TRUE(driver.Negotiate(kAllFeatures));
  driver.SetUpQueue(0, 8);
  driver.Set(kConfigMsixVector, 2, kConfigVector);
  device->ChangeConfig(7);  // the driver has perhaps read it already
  EXPECT_EQ(Interrupts(), 0);
  driver.Set(kDeviceStatus, 1, driver.status() | kStatusDriverOk);
  EXPECT_EQ(Interrupts(), 1);
}

TEST_F(ConfigChangeTest, AResetForgetsTheInterruptNotTheChange) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  SetFunctionState(false, true);
  device->ChangeConfig(7);
  const uint64_t generation = Generation();
  ASSERT_TRUE(driver.Reset());
  services.TakeMsixSignals();
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  EXPECT_EQ(Interrupts(), 0) << "a driver reads all of it anew";
  EXPECT_EQ(Generation(), generation);
  EXPECT_EQ(driver.ReadConfig(0, 1), 7u);
}

// --- Deaths --------------------------------------------------------------------------------------

TEST_F(ConfigChangeTest, ASuccessorKeepsTheGenerationAndDoesNotRepeatTheInterrupt) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  device->ChangeConfig(7);
  const uint64_t generation = Generation();
  for (int i = 0; i < 3; ++i) {
    services.TakeMsixSignals();
    model.Restart();
    EXPECT_EQ(Generation(), generation);
    EXPECT_EQ(driver.ReadConfig(0, 1), 7u);
    EXPECT_EQ(Interrupts(), 0) << "Linux logs each";
  }
}

TEST_F(ConfigChangeTest, AnInterruptThatIsOwedIsASuccessorsToo) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  SetFunctionState(false, true);
  device->ChangeConfig(7);
  Save();
  for (int i = 0; i < 3; ++i) model.Restart();
  EXPECT_EQ(Interrupts(), 0);
  SetFunctionState(true, true);
  EXPECT_EQ(Interrupts(), 1);
  model.Restart();
  EXPECT_EQ(Interrupts(), 0);
}

TEST_F(ConfigChangeTest, WithoutMsixASuccessorKeepsTheLineUntilTheIsrWasRead) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  SetFunctionState(true, false);
  driver.ReadIsr();
  device->ChangeConfig(7);
  Save();
  services.SetIntx(false);
  model.Restart();
  EXPECT_TRUE(services.intx());
  EXPECT_NE(driver.ReadIsr() & kIsrConfig, 0);
  model.Restart();
  EXPECT_EQ(driver.ReadIsr() & kIsrConfig, 0) << "it was read";
}

TEST_F(ConfigChangeTest, DyingInEachAccessLosesNoChange) {
  using DieIn = RestartableDevice::DieIn;
  for (const DieIn when : {DieIn::kEachAccessBeforeSave, DieIn::kEachAccessAfterSave}) {
    for (const bool msix : {true, false}) {
      ASSERT_TRUE(driver.Initialize(kAllFeatures));
      SetFunctionState(false, msix);
      SetFunctionState(true, msix);
      driver.ReadIsr();
      services.TakeMsixSignals();
      const uint64_t generation = Generation();
      device->ChangeConfig(9);
      Save();
      model.set_die_in(when);
      EXPECT_NE(Generation(), generation);
      EXPECT_EQ(driver.ReadConfig(2, 1), 9u);
      if (msix) {
        EXPECT_EQ(Interrupts(), 1);
      } else {
        EXPECT_NE(driver.ReadIsr() & kIsrConfig, 0);
      }
      model.set_die_in(DieIn::kNever);
    }
  }
}

TEST_F(ConfigChangeTest, AnImpossibleOwedInterruptIsRefused) {
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  services.saved()[offsetof(SavedDevice, config_interrupt_owed)] = 2;
  EXPECT_EQ(model.TryRestart().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
