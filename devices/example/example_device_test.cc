#include "devices/example/example_device.h"

#include <stdint.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/example/registers.h"
#include "devices/host/testing/fake_services.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::example {
namespace {

constexpr uint64_t kRamSize = 1 << 20;
constexpr FunctionState kBusMaster = {.bus_master = true};
constexpr FunctionState kMsix = {.bus_master = true, .msix_enabled = true};

class ExampleDeviceTest : public testing::Test {
 protected:
  ExampleDeviceTest() {
    EXPECT_TRUE(device_->Start(services_).ok());
    EXPECT_TRUE(services_.memory().Write(kBytes, std::vector<uint8_t>(100, 7)));
  }

  uint64_t Read(uint64_t offset, uint8_t size_bytes) {
    return device_->Read(kBar, offset, size_bytes);
  }
  Status AddUp(uint64_t address, uint32_t length) {
    device_->Write(kBar, kAddressOffset, 8, address);
    device_->Write(kBar, kLengthOffset, 4, length);
    device_->OnDoorbell(0);
    return static_cast<Status>(Read(kStatusOffset, 4));
  }
  // A new process restores the saved state of the last one, as the device host has it.
  absl::Status Restart(const FunctionState& function) {
    std::vector<uint8_t> saved(device_->Describe().saved_state_bytes());
    saved.resize(device_->Save(absl::MakeSpan(saved)));
    device_.emplace();
    EXPECT_TRUE(device_->Start(services_).ok());
    const absl::Status status = device_->Restore(saved);
    device_->OnFunctionState(function);
    device_->OnDoorbell(0);
    return status;
  }

  static constexpr uint64_t kBytes = 0x1000;
  FakeServices services_{{{0, kRamSize}}};
  std::optional<ExampleDevice> device_{std::in_place};
};

TEST_F(ExampleDeviceTest, DescribesItselfByItsRegisterMap) {
  const v1::DeviceInfo info = device_->Describe();
  EXPECT_EQ(info.pci().device_id(), 0xb002u);
  EXPECT_EQ(info.pci().bars(0).size_bytes(), kBarSize);
  EXPECT_EQ(info.doorbells(0).offset(), kDoorbellOffset);
  EXPECT_EQ(Read(kIdentificationOffset, 4), kIdentification);
}

TEST_F(ExampleDeviceTest, AddsUpBytesOfGuestMemory) {
  device_->OnFunctionState(kBusMaster);
  EXPECT_EQ(AddUp(kBytes, 100), kDone);
  EXPECT_EQ(Read(kSumOffset, 8), 700u);
  EXPECT_EQ(AddUp(kBytes + 99, 2), kDone);
  EXPECT_EQ(Read(kSumOffset, 8), 7u);
}

TEST_F(ExampleDeviceTest, RefusesWhatItMayNotTouch) {
  EXPECT_EQ(AddUp(kBytes, 1), kNotBusMaster);
  device_->OnFunctionState(kBusMaster);
  EXPECT_EQ(AddUp(kRamSize - 1, 2), kBadAddress);
  EXPECT_EQ(AddUp(~uint64_t{0}, 2), kBadAddress);
  EXPECT_EQ(AddUp(kBytes, kMaxLength + 1), kBadLength);
  EXPECT_EQ(Read(kSumOffset, 8), 0u);
}

TEST_F(ExampleDeviceTest, OtherWidthsAndOffsetsReadAllOnesAndIgnoreWrites) {
  services_.TakeStateChanges();
  device_->Write(kBar, kLengthOffset, 2, 5);
  device_->Write(kBar, kSumOffset, 8, 5);
  EXPECT_EQ(Read(kLengthOffset, 2), ~uint64_t{0});
  EXPECT_EQ(Read(kDoorbellOffset, 4), ~uint64_t{0});
  EXPECT_EQ(Read(kSumOffset, 8), 0u);
  EXPECT_EQ(services_.TakeStateChanges(), 0);
}

TEST_F(ExampleDeviceTest, TheLineIsUpUntilTheResultIsAcknowledged) {
  device_->OnFunctionState(kBusMaster);
  AddUp(kBytes, 1);
  EXPECT_TRUE(services_.intx());
  device_->Write(kBar, kStatusOffset, 4, 0);
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(Read(kStatusOffset, 4), kIdle);
}

TEST_F(ExampleDeviceTest, WithMsixItSendsOneMessageAResult) {
  device_->OnFunctionState(kMsix);
  AddUp(kBytes, 1);
  device_->OnDoorbell(0);  // needless
  EXPECT_EQ(services_.TakeMsixSignals(), std::vector<uint32_t>{0});
  EXPECT_FALSE(services_.intx());
}

TEST_F(ExampleDeviceTest, ASuccessorDoesWhatWasAskedForAndRepeatsTheInterrupt) {
  device_->OnFunctionState(kMsix);
  device_->Write(kBar, kAddressOffset, 8, kBytes);
  device_->Write(kBar, kLengthOffset, 4, 10);
  ASSERT_TRUE(Restart(kMsix).ok());  // before the doorbell was served
  EXPECT_EQ(Read(kStatusOffset, 4), kDone);
  EXPECT_EQ(Read(kSumOffset, 8), 70u);
  EXPECT_EQ(services_.TakeMsixSignals().size(), 1u);
  ASSERT_TRUE(Restart(kMsix).ok());
  EXPECT_EQ(Read(kSumOffset, 8), 70u);
  EXPECT_EQ(services_.TakeMsixSignals().size(), 1u);
  ASSERT_TRUE(Restart(kBusMaster).ok());
  EXPECT_TRUE(services_.intx());
}

TEST_F(ExampleDeviceTest, ImpossibleStateIsRefused) {
  std::vector<uint8_t> state(device_->Describe().saved_state_bytes());
  EXPECT_TRUE(device_->Restore(state).ok());
  EXPECT_FALSE(device_->Restore(absl::MakeSpan(state).subspan(1)).ok());
  state.assign(state.size(), 0xff);
  EXPECT_FALSE(device_->Restore(state).ok());
}

TEST_F(ExampleDeviceTest, AResetLeavesNothing) {
  device_->OnFunctionState(kBusMaster);
  AddUp(kBytes, 1);
  device_->Reset();
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(Read(kSumOffset, 8), 0u);
  EXPECT_EQ(Read(kAddressOffset, 8), 0u);
  EXPECT_EQ(Read(kStatusOffset, 4), kIdle);
}

}  // namespace
}  // namespace bulkhead::devices::example
