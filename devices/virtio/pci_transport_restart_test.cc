// What of a virtio device outlives its process: registers, queues, interrupts, resets.
#include <string.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/pci_bar.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/saved_state.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/holding_device.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"
#include "proto/contract.h"

namespace bulkhead::devices::virtio {
namespace {

using DieIn = RestartableDevice::DieIn;

constexpr uint64_t kAllFeatures = ~uint64_t{0};
constexpr uint8_t kWindow = kCapabilityRegionBase + 4;

class PciTransportRestartTest : public testing::Test {
 protected:
  PciTransportRestartTest()
      : model(services,
              [this] {
                auto owned = std::make_unique<HoldingDevice>();
                device = owned.get();
                device->slow_to_stop = slow_to_stop;
                device->completes_at_once = completes_at_once;
                if (dies_before_signalling) services.TakeMsixSignals();
                return std::make_unique<PciTransport>(std::move(owned));
              }),
        driver(std::make_unique<FakeDriver>(model, services)) {}

  uint16_t AddChain(uint16_t queue) {
    return *driver->queue(queue).Add({{driver->Allocate(16), 16, true}});
  }

  // All that a driver can read without changing it.
  std::vector<uint64_t> Registers() {
    std::vector<uint64_t> values;
    const uint64_t selected = driver->Get(kQueueSelect, 2);
    for (uint16_t queue = 0; queue < 3; ++queue) {
      driver->Set(kQueueSelect, 2, queue);
      for (uint32_t i = 0; i < kCommonConfigSize; ++i) {
        const bool select = i == kQueueSelect || i == kQueueSelect + 1;
        values.push_back(select ? selected : driver->Get(i, 1));
      }
    }
    driver->Set(kQueueSelect, 2, selected);
    for (uint32_t i = 0; i < HoldingDevice::kConfigSize; ++i) {
      values.push_back(driver->ReadConfig(i, 1));
    }
    for (uint32_t i = 0; i < 14; ++i) values.push_back(model.Read(kWindow, i, 1));
    return values;
  }

  bool slow_to_stop = false;
  bool completes_at_once = false;
  bool dies_before_signalling = false;
  DurableServices services;
  HoldingDevice* device = nullptr;
  RestartableDevice model;
  std::unique_ptr<FakeDriver> driver;
};

TEST_F(PciTransportRestartTest, EveryRegisterSurvives) {
  struct Step {
    const char* name;
    std::function<void()> act;
  };
  const Step kSteps[] = {
      {"nothing", [] {}},
      {"feature selects",
       [&] {
         driver->Set(kDeviceFeatureSelect, 4, 1);
         driver->Set(kDriverFeatureSelect, 4, 0xfedcba98);
       }},
      {"half of the features",
       [&] {
         driver->Set(kDriverFeatureSelect, 4, 0);
         driver->Set(kDriverFeature, 4, 0x12345678);
       }},
      {"negotiated", [&] { ASSERT_TRUE(driver->Negotiate(kAllFeatures)); }},
      {"vectors",
       [&] {
         driver->Set(kConfigMsixVector, 2, 2);
         driver->Set(kQueueMsixVector, 2, 1);
       }},
      {"half of a queue",
       [&] {
         driver->Set(kQueueSelect, 2, 1);
         driver->Set(kQueueSize, 2, 3);
         driver->Set(kQueueDescriptors, 4, 0xabcdef01);
         driver->Set(kQueueDriver + 4, 4, 0x11223344);
       }},
      {"a queue", [&] { driver->SetUpQueue(0, 4); }},
      {"a queue that does not exist", [&] { driver->Set(kQueueSelect, 2, 0xffff); }},
      {"configuration", [&] { driver->WriteConfig(2, 4, 0xa1b2c3d4); }},
      {"the window",
       [&] {
         model.Write(kWindow, 2, 1, 5);
         model.Write(kWindow, 6, 4, 0x1234);
         model.Write(kWindow, 10, 4, 4);
       }},
      {"failed", [&] { driver->Set(kDeviceStatus, 1, driver->status() | kStatusFailed); }},
      {"DRIVER_OK", [&] { driver->Set(kDeviceStatus, 1, driver->status() | kStatusDriverOk); }},
      {"a broken rule", [&] { device->virtio->Fail("as a test wants it"); }},
      {"reset", [&] { ASSERT_TRUE(driver->Reset()); }},
  };
  for (const Step& step : kSteps) {
    step.act();
    driver->Get(kDeviceStatus, 1);  // an access: whatever changed before has been saved
    const std::vector<uint64_t> before = Registers();
    const std::vector<uint8_t> saved = services.saved();
    model.Restart();
    EXPECT_EQ(services.saved(), saved) << step.name;
    EXPECT_EQ(Registers(), before) << step.name;
    if (HasFatalFailure()) return;
  }
}

TEST_F(PciTransportRestartTest, TheDriverDoesNotNoticeThatEachOfItsAccessesKillsAProcess) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures, 8));
  const std::vector<uint64_t> expected = Registers();
  const std::vector<uint64_t> negotiated = device->negotiated;
  for (const DieIn when : {DieIn::kEachAccessBeforeSave, DieIn::kEachAccessAfterSave}) {
    model.set_die_in(when);
    const int restarts = model.restarts();
    // The queues lie where the first ones did.
    driver = std::make_unique<FakeDriver>(model, services);
    ASSERT_TRUE(driver->Initialize(kAllFeatures, 8));
    EXPECT_GT(model.restarts() - restarts, 40);
    model.set_die_in(DieIn::kNever);
    EXPECT_EQ(Registers(), expected);
    EXPECT_EQ(device->negotiated.back(), negotiated.back());
    const uint16_t head = AddChain(1);
    driver->Kick(1);
    ASSERT_EQ(device->held[1], std::vector<uint16_t>{head});
    device->Release(1);
    EXPECT_EQ(driver->queue(1).PopUsed()->id, head);
  }
}

TEST_F(PciTransportRestartTest, ServingRequestsDoesNotChangeTheSavedState) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  for (const bool msix : {true, false}) {
    model.OnFunctionState({.bus_master = true, .msix_enabled = msix});
    services.TakeStateChanges();
    for (int i = 0; i < 3; ++i) {
      AddChain(0);
      model.OnDoorbell(0);
      device->Release(0);
      driver->queue(0).PopUsed();
      driver->ReadIsr();
    }
    EXPECT_EQ(services.TakeStateChanges(), 0);
  }
}

TEST_F(PciTransportRestartTest, WritesThatChangeNothingAreNotSaved) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  services.TakeStateChanges();
  driver->Set(kQueueSelect, 2, driver->Get(kQueueSelect, 2));
  driver->Set(kDeviceStatus, 1, driver->status());
  driver->Set(kQueueSize, 2, 4);      // of an enabled queue
  driver->Set(kDriverFeature, 4, 0);  // after FEATURES_OK
  driver->Set(kNumQueues, 2, 7);
  model.Write(kBar, kBarNotify, 2, 0);
  EXPECT_EQ(services.TakeStateChanges(), 0);
  driver->Set(kQueueSelect, 2, 0);
  EXPECT_EQ(services.TakeStateChanges(), 1);
}

// --- Interrupts ----------------------------------------------------------------------------------

TEST_F(PciTransportRestartTest, ASuccessorRaisesTheInterruptOfEachEnabledQueue) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  services.TakeMsixSignals();
  model.Restart();
  EXPECT_EQ(services.TakeMsixSignals(), (std::vector<uint32_t>{1, 2}));
  EXPECT_FALSE(services.intx());
}

TEST_F(PciTransportRestartTest, MessagesWaitForBusMastering) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  model.OnFunctionState({.bus_master = false, .msix_enabled = true});
  services.TakeMsixSignals();
  model.Restart();
  EXPECT_TRUE(services.TakeMsixSignals().empty());
  model.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_EQ(services.TakeMsixSignals(), (std::vector<uint32_t>{1, 2}));
  model.OnFunctionState({.bus_master = false, .msix_enabled = true});
  model.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(services.TakeMsixSignals().empty()) << "once is enough";
}

TEST_F(PciTransportRestartTest, WithoutMsixTheIsrAndTheLineAreSet) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  model.OnFunctionState({.bus_master = true, .msix_enabled = false});
  EXPECT_EQ(driver->ReadIsr(), 0);
  services.SetIntx(false);
  model.Restart();
  EXPECT_TRUE(services.intx());
  EXPECT_EQ(driver->ReadIsr(), kIsrQueue);
  EXPECT_FALSE(services.intx());
}

TEST_F(PciTransportRestartTest, BeforeDriverOkNoInterruptIsRaised) {
  model.OnFunctionState({.bus_master = true, .msix_enabled = false});
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  driver->SetUpQueue(0, 8);
  model.Restart();
  EXPECT_FALSE(services.intx());
  EXPECT_EQ(driver->ReadIsr(), 0);
}

// A driver may have made requests available before DRIVER_OK, which is a posted write: the process
// may serve them all within it, and die before it has signalled or saved anything.
TEST_F(PciTransportRestartTest, AnInterruptThatIsOwedSinceDriverOkIsRaised) {
  completes_at_once = dies_before_signalling = true;
  model.Restart();
  model.OnFunctionState({.bus_master = true, .msix_enabled = true});
  ASSERT_TRUE(driver->Negotiate(kAllFeatures));
  driver->SetUpQueue(1, 8);
  const uint16_t head = AddChain(1);
  const uint8_t status = driver->status() | kStatusDriverOk;
  model.set_die_in(DieIn::kEachAccessBeforeSave);
  driver->Set(kDeviceStatus, 1, status);
  model.set_die_in(DieIn::kNever);
  ASSERT_EQ(driver->status(), status);
  EXPECT_EQ(driver->queue(1).PopUsed()->id, head);
  EXPECT_EQ(services.TakeMsixSignals(), std::vector<uint32_t>{2});
}

TEST_F(PciTransportRestartTest, TheDriverIsToldAgainThatItMustReset) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  driver->queue(0).MakeAvailable(1000);
  model.OnDoorbell(0);
  services.TakeMsixSignals();
  model.Restart();
  EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
  EXPECT_EQ(services.TakeMsixSignals().back(), 0u);
  AddChain(1);
  model.OnDoorbell(1);
  EXPECT_TRUE(device->held[1].empty()) << "all queues stay stopped";
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  AddChain(1);
  model.OnDoorbell(1);
  EXPECT_EQ(device->held[1].size(), 1u);
}

// --- Resets --------------------------------------------------------------------------------------

TEST_F(PciTransportRestartTest, AResetThatWaitedForIoIsDoneInTheSuccessor) {
  slow_to_stop = true;
  model.Restart();
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  AddChain(0);
  driver->Kick(0);
  driver->Set(kDeviceStatus, 1, 0);
  ASSERT_NE(driver->status(), 0);
  ASSERT_FALSE(model.at_rest());
  model.Restart();
  EXPECT_EQ(driver->status(), 0);
  EXPECT_TRUE(model.at_rest());
  EXPECT_TRUE(device->held[0].empty());
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  const uint16_t head = AddChain(0);
  driver->Kick(0);
  device->Release(0);
  EXPECT_EQ(driver->queue(0).PopUsed()->id, head);
}

TEST_F(PciTransportRestartTest, AQueueResetThatWaitedForIoIsDoneInTheSuccessor) {
  slow_to_stop = true;
  model.Restart();
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  AddChain(0);
  driver->Kick(0);
  driver->Set(kQueueSelect, 2, 0);
  driver->Set(kQueueReset, 2, 1);
  ASSERT_EQ(driver->Get(kQueueReset, 2), 1u);
  model.Restart();
  EXPECT_EQ(driver->Get(kQueueReset, 2), 0u);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 0u);
  EXPECT_EQ(driver->Get(kQueueSize, 2), 8u);
  driver->SetUpQueue(0, 4);
  EXPECT_EQ(driver->Get(kQueueEnable, 2), 1u);
  const uint16_t head = AddChain(0);
  driver->Kick(0);
  EXPECT_EQ(device->held[0], std::vector<uint16_t>{head});
}

TEST_F(PciTransportRestartTest, TheHostsResetIsThatOfPowerOn) {
  const std::vector<uint64_t> initial = Registers();
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  model.OnFunctionState({.bus_master = true, .msix_enabled = false});
  model.Write(kWindow, 6, 4, 0x1234);
  driver->Set(kQueueSelect, 2, 1);
  device->slow_to_stop = true;
  AddChain(0);
  driver->Kick(0);
  device->virtio->Fail("raises the line");
  model.Reset();
  EXPECT_FALSE(services.intx());
  EXPECT_FALSE(model.at_rest());
  model.Reset();
  device->Release(0);
  EXPECT_TRUE(model.at_rest());
  EXPECT_EQ(driver->queue(0).used_idx(), 0);
  driver->Get(kDeviceStatus, 1);
  memset(device->config, 0, sizeof(device->config));
  std::vector<uint64_t> now = Registers();
  // The device type's configuration is its own affair.
  for (size_t i = 0; i < HoldingDevice::kConfigSize; ++i) {
    now[3 * kCommonConfigSize + i] = initial[3 * kCommonConfigSize + i];
  }
  EXPECT_EQ(now, initial);
  model.Restart();
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
}

// --- Serving -------------------------------------------------------------------------------------

TEST_F(PciTransportRestartTest, ADeviceThatShallNotServeTakesNothingNewAndFinishesTheRest) {
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  AddChain(0);
  driver->Kick(0);
  model.SetServing(false);
  EXPECT_FALSE(model.at_rest());
  AddChain(0);
  AddChain(1);
  model.OnDoorbell(0);
  model.OnDoorbell(1);
  EXPECT_EQ(driver->status() & kStatusDriverOk, kStatusDriverOk) << "registers answer";
  EXPECT_EQ(device->held[0].size(), 1u);
  device->Release(0);
  EXPECT_EQ(driver->queue(0).used_idx(), 1);
  EXPECT_TRUE(model.at_rest());
  EXPECT_TRUE(device->held[1].empty());
  model.SetServing(true);
  EXPECT_EQ(device->held[0].size(), 1u);
  EXPECT_EQ(device->held[1].size(), 1u);
}

// --- States that cannot be
// -------------------------------------------------------------------------

TEST_F(PciTransportRestartTest, DescribesWhatItKeeps) {
  const v1::DeviceInfo info = model.Describe();
  EXPECT_EQ(info.saved_state_bytes(),
            sizeof(SavedDevice) + 2 * sizeof(SavedQueue) + HoldingDevice::kConfigSize);
  EXPECT_GE(info.durable_memory_bytes(), (8u + 16u) * 10);
  EXPECT_EQ(info.state_version(), kSavedStateVersion << 16 | 3);
}

struct ImpossibleState {
  const char* name;
  void (*change)(SavedDevice& device, SavedQueue* queues);
  const char* error;  // part of it
};

TEST_F(PciTransportRestartTest, ImpossibleStatesAreRefused) {
  const ImpossibleState kCases[] = {
      {"status bit", [](SavedDevice& d, SavedQueue*) { d.status |= 0x10; }, "status"},
      {"DRIVER_OK alone", [](SavedDevice& d, SavedQueue*) { d.status = 4; }, "status"},
      {"FEATURES_OK alone", [](SavedDevice& d, SavedQueue*) { d.status = 8; }, "status"},
      {"resetting twice", [](SavedDevice& d, SavedQueue*) { d.resetting = 2; }, "resetting"},
      {"feature that is not offered",
       [](SavedDevice& d, SavedQueue*) { d.driver_features |= uint64_t{1} << 63; }, "features"},
      {"no VERSION_1", [](SavedDevice& d, SavedQueue*) { d.driver_features &= ~kFeatureVersion1; },
       "features"},
      {"another number of queues", [](SavedDevice& d, SavedQueue*) { d.queue_count = 3; },
       "3 queues"},
      {"vector", [](SavedDevice& d, SavedQueue*) { d.config_vector = 3; }, "interrupts"},
      {"vector of a queue", [](SavedDevice&, SavedQueue* q) { q[1].vector = 3; }, "vector"},
      {"ISR", [](SavedDevice& d, SavedQueue*) { d.isr = 4; }, "interrupts"},
      {"constant part of the window", [](SavedDevice& d, SavedQueue*) { d.window[1] ^= 1; },
       "capability"},
      {"queue's state",
       [](SavedDevice&, SavedQueue* q) { q[0].state = static_cast<SavedQueueState>(3); },
       "queue 0"},
      {"queue's flag", [](SavedDevice&, SavedQueue* q) { q[0].was_reset = 2; }, "queue 0"},
      {"reset queue that is enabled", [](SavedDevice&, SavedQueue* q) { q[1].was_reset = 1; },
       "queue 1"},
      {"ring outside memory",
       [](SavedDevice&, SavedQueue* q) { q[1].device_area = uint64_t{1} << 40; }, "queue 1"},
      {"size of an enabled queue", [](SavedDevice&, SavedQueue* q) { q[0].size = 16; }, "queue 0"},
  };
  ASSERT_TRUE(driver->Initialize(kAllFeatures));
  const std::vector<uint8_t> good = services.saved();
  for (const ImpossibleState& c : kCases) {
    SavedDevice saved;
    SavedQueue queues[2];
    memcpy(&saved, good.data(), sizeof(saved));
    memcpy(queues, good.data() + sizeof(saved), sizeof(queues));
    c.change(saved, queues);
    std::vector<uint8_t> bad = good;
    memcpy(bad.data(), &saved, sizeof(saved));
    memcpy(bad.data() + sizeof(saved), queues, sizeof(queues));
    services.saved() = bad;
    const absl::Status status = model.TryRestart();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_NE(std::string(status.message()).find(c.error), std::string::npos) << status;
  }
  for (size_t size = 1; size < good.size(); ++size) {
    services.saved().assign(good.begin(), good.begin() + size);
    EXPECT_FALSE(model.TryRestart().ok()) << size;
  }
  services.saved() = good;
  services.saved().push_back(0);
  EXPECT_FALSE(model.TryRestart().ok());
  services.saved() = good;
  EXPECT_TRUE(model.TryRestart().ok());
}

}  // namespace
}  // namespace bulkhead::devices::virtio
