#include "devices/rig/rig_device.h"

#include <stdint.h>
#include <string.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/host/testing/fake_services.h"
#include "devices/rig/registers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/contract.h"

namespace bulkhead::devices::rig {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kRamSize = 1 << 20;

class RigDeviceTest : public ::testing::Test {
 protected:
  RigDeviceTest()
      : services_({{0, kRamSize}, {0x100000000, kRamSize}, {0x100000000 + kRamSize, kRamSize}}) {
    services_.SetDurableMemory(kMemoryBarSize);
    EXPECT_TRUE(device_->Start(services_).ok());
  }
  // A new process restores the saved state of the last one, as the device host has it.
  absl::Status Restart(const FunctionState& state = {}) {
    std::vector<uint8_t> saved(device_->Describe().saved_state_bytes());
    saved.resize(device_->Save(absl::MakeSpan(saved)));
    device_.emplace();
    EXPECT_TRUE(device_->Start(services_).ok());
    const absl::Status status = device_->Restore(saved);
    if (status.ok()) device_->OnFunctionState(state);
    return status;
  }

  uint32_t Read32(uint64_t offset) {
    return static_cast<uint32_t>(device_->Read(kRegisterBar, offset, 4));
  }
  void Write32(uint64_t offset, uint32_t value) { device_->Write(kRegisterBar, offset, 4, value); }
  void Write64(uint64_t offset, uint64_t value) { device_->Write(kRegisterBar, offset, 8, value); }
  void CopyByDma(uint64_t source, uint64_t destination, uint32_t length) {
    Write64(kDmaSourceOffset, source);
    Write64(kDmaDestinationOffset, destination);
    Write32(kDmaLengthOffset, length);
    Write32(kDmaCommandOffset, kDmaCopy);
  }

  FakeServices services_;
  std::optional<RigDevice> device_{std::in_place};
};

TEST_F(RigDeviceTest, DescribesItselfByItsRegisterMap) {
  const v1::DeviceInfo info = device_->Describe();
  EXPECT_EQ(info.contract_version(), kContractVersion);
  EXPECT_EQ(info.pci().vendor_id(), kVendorId);
  EXPECT_EQ(info.pci().device_id(), kDeviceId);
  EXPECT_EQ(info.pci().msix_vectors(), kMsixVectors);
  ASSERT_EQ(info.pci().bars_size(), 2);
  EXPECT_EQ(info.pci().bars(0).size_bytes(), kRegisterBarSize);
  EXPECT_TRUE(info.pci().bars(1).is_64bit());
  ASSERT_EQ(info.pci().capabilities_size(), 2);
  EXPECT_TRUE(info.pci().capabilities(0).forwarded());
  EXPECT_EQ(info.pci().capabilities(0).body().size(), kCapabilitySize - 2u);
  EXPECT_EQ(info.pci().capabilities(1).body(), std::string("\x08\0BULK", 6));
  ASSERT_EQ(info.doorbells_size(), 1);
  EXPECT_EQ(info.doorbells(0).offset(), kDoorbellOffset);
}

TEST_F(RigDeviceTest, IdentificationAndVersionIgnoreWrites) {
  Write32(kIdentificationOffset, 0);
  Write32(kVersionOffset, 0);
  EXPECT_EQ(Read32(kIdentificationOffset), kIdentification);
  EXPECT_EQ(Read32(kVersionOffset), kVersion);
}

TEST_F(RigDeviceTest, RegisterReadWithAnotherWidthThanItsOwnGivesAllOnes) {
  EXPECT_EQ(device_->Read(kRegisterBar, kIdentificationOffset, 1), ~uint64_t{0});
  EXPECT_EQ(device_->Read(kRegisterBar, kIdentificationOffset, 8), ~uint64_t{0});
  EXPECT_EQ(device_->Read(kRegisterBar, kIdentificationOffset + 2, 4), ~uint64_t{0});
}

TEST_F(RigDeviceTest, ScratchKeepsBytesOfEveryWidthAtEveryAlignment) {
  device_->Write(kRegisterBar, kScratchOffset + 1, 8, 0x1122334455667788);
  device_->Write(kRegisterBar, kScratchOffset + 2, 2, 0xabcd);
  EXPECT_EQ(device_->Read(kRegisterBar, kScratchOffset + 1, 8), 0x1122334455abcd88u);
  EXPECT_EQ(device_->Read(kRegisterBar, kScratchOffset + 2, 1), 0xcdu);
  EXPECT_EQ(device_->Read(kRegisterBar, kScratchOffset, 1), 0u);
}

TEST_F(RigDeviceTest, AccessAcrossTheEndOfScratchTouchesNothing) {
  const uint64_t last = kScratchOffset + kScratchSize - 4;
  Write32(last, 0x01020304);
  device_->Write(kRegisterBar, last, 8, 0);
  EXPECT_EQ(Read32(last), 0x01020304u);
  EXPECT_EQ(device_->Read(kRegisterBar, last, 8), ~uint64_t{0});
}

TEST_F(RigDeviceTest, MemoryBarKeepsItsFirstAndLastBytes) {
  device_->Write(kMemoryBar, 0, 1, 0x5a);
  device_->Write(kMemoryBar, kMemoryBarSize - 8, 8, 0x8877665544332211);
  EXPECT_EQ(device_->Read(kMemoryBar, 0, 1), 0x5au);
  EXPECT_EQ(device_->Read(kMemoryBar, kMemoryBarSize - 1, 1), 0x88u);
  EXPECT_EQ(device_->Read(kMemoryBar, kMemoryBarSize - 4, 8), ~uint64_t{0}) << "past the end";
}

TEST_F(RigDeviceTest, ForwardedCapabilityHasAConstantHeadAndAScratch) {
  device_->Write(kCapabilityRegionBase, 0, 2, 0xffff);
  device_->Write(kCapabilityRegionBase, 2, 4, 0xcafef00d);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase, 0, 1), kCapabilitySize);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase, 1, 1), 0u);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase, 2, 4), 0xcafef00du);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase + 1, 2, 4), ~uint64_t{0}) << "not forwarded";
}

TEST_F(RigDeviceTest, ConsecutiveNumbersAreInOrder) {
  for (uint32_t i = 0; i < 100; ++i) Write32(kOrderNextOffset, i);
  EXPECT_EQ(Read32(kOrderNextOffset), 100u);
  EXPECT_EQ(Read32(kOrderViolationsOffset), 0u);
}

TEST_F(RigDeviceTest, SwappedLostAndRepeatedNumbersAreViolations) {
  Write32(kOrderNextOffset, 0);
  Write32(kOrderNextOffset, 2);  // 1 is missing
  EXPECT_EQ(Read32(kOrderViolationsOffset), 1u);
  Write32(kOrderNextOffset, 1);  // late
  EXPECT_EQ(Read32(kOrderViolationsOffset), 2u);
  Write32(kOrderNextOffset, 1);  // twice
  EXPECT_EQ(Read32(kOrderViolationsOffset), 3u);
  Write32(kOrderViolationsOffset, 0);
  EXPECT_EQ(Read32(kOrderNextOffset), 0u);
  EXPECT_EQ(Read32(kOrderViolationsOffset), 0u);
}

TEST_F(RigDeviceTest, DoorbellCountsAndRemembersTheWritesBeforeIt) {
  Write32(kOrderNextOffset, 0);
  device_->OnDoorbell(0);
  Write32(kOrderNextOffset, 1);
  device_->OnDoorbell(1);  // there is no such doorbell
  EXPECT_EQ(Read32(kDoorbellCountOffset), 1u);
  EXPECT_EQ(Read32(kDoorbellOrderOffset), 1u);
  Write32(kDoorbellCountOffset, 0);
  EXPECT_EQ(Read32(kDoorbellCountOffset), 0u);
}

TEST_F(RigDeviceTest, CausesSendTheirMsixVectorsEvenIfUnacknowledged) {
  device_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  Write32(kInterruptRaiseOffset, 0b101);
  Write32(kInterruptRaiseOffset, 0b100);
  EXPECT_THAT(services_.TakeMsixSignals(), ElementsAre(0, 2, 2));
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(Read32(kInterruptStatusOffset), 0b101u);
}

TEST_F(RigDeviceTest, CausesWithoutAVectorAreIgnored) {
  device_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  Write32(kInterruptRaiseOffset, 0xffffff00);
  EXPECT_THAT(services_.TakeMsixSignals(), IsEmpty());
  EXPECT_EQ(Read32(kInterruptStatusOffset), 0u);
}

TEST_F(RigDeviceTest, WithoutBusMasteringNoMsixIsSent) {
  device_->OnFunctionState({.bus_master = false, .msix_enabled = true});
  Write32(kInterruptRaiseOffset, 1);
  EXPECT_THAT(services_.TakeMsixSignals(), IsEmpty());
}

TEST_F(RigDeviceTest, WithoutMsixTheLineIsUpUntilAllCausesAreAcknowledged) {
  Write32(kInterruptRaiseOffset, 0b11);
  EXPECT_TRUE(services_.intx());
  Write32(kInterruptAckOffset, 0b01);
  EXPECT_TRUE(services_.intx());
  Write32(kInterruptAckOffset, 0b10);
  EXPECT_FALSE(services_.intx());
  EXPECT_THAT(services_.TakeMsixSignals(), IsEmpty());
}

TEST_F(RigDeviceTest, EnablingMsixLowersTheLineAndDisablingRaisesItAgain) {
  Write32(kInterruptRaiseOffset, 1);
  device_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(Read32(kFunctionStateOffset), kFunctionStateBusMaster | kFunctionStateMsixEnabled);
  device_->OnFunctionState({});
  EXPECT_TRUE(services_.intx());
}

TEST_F(RigDeviceTest, DmaCopiesBetweenMemoryRanges) {
  device_->OnFunctionState({.bus_master = true});
  ASSERT_TRUE(services_.memory().WriteObject<uint64_t>(0x1000, 0x1122334455667788));
  CopyByDma(0x1000, 0x100000ff8, 8);
  uint64_t copied = 0;
  ASSERT_TRUE(services_.memory().ReadObject(0x100000ff8, copied));
  EXPECT_EQ(copied, 0x1122334455667788u);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaDone);
  EXPECT_FALSE(services_.intx()) << "no interrupt was asked for";
}

TEST_F(RigDeviceTest, DmaMayCrossFromOneRangeOfMemoryIntoTheNext) {
  device_->OnFunctionState({.bus_master = true});
  const GuestAddress border = 0x100000000 + kRamSize;
  std::vector<uint8_t> bytes(256);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
  ASSERT_TRUE(services_.memory().Write(border - 100, bytes));
  CopyByDma(border - 100, 0x1000, 256);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaDone);
  CopyByDma(0x1000, border - 200, 256);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaDone);
  std::vector<uint8_t> copied(256);
  ASSERT_TRUE(services_.memory().Read(border - 200, absl::MakeSpan(copied)));
  EXPECT_EQ(copied, bytes);
  CopyByDma(border - 100, border - 50, 256);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaBadAddress) << "they overlap";
}

TEST_F(RigDeviceTest, DmaAddressesCanBeWrittenByHalves) {
  Write32(kDmaSourceOffset + 4, 0x1);
  Write32(kDmaSourceOffset, 0x2000);
  Write64(kDmaDestinationOffset, 0xaaaabbbbccccdddd);
  Write32(kDmaDestinationOffset, 0x1111);
  EXPECT_EQ(device_->Read(kRegisterBar, kDmaSourceOffset, 8), 0x100002000u);
  EXPECT_EQ(device_->Read(kRegisterBar, kDmaDestinationOffset, 8), 0xaaaabbbb00001111u);
  EXPECT_EQ(Read32(kDmaDestinationOffset + 4), 0xaaaabbbbu);
}

TEST_F(RigDeviceTest, DmaOutsideRamIsAnErrorAndWritesNothing) {
  device_->OnFunctionState({.bus_master = true});
  ASSERT_TRUE(services_.memory().WriteObject<uint32_t>(0, 0xdeadbeef));
  struct Case {
    uint64_t source;
    uint64_t destination;
  };
  for (const Case& c : std::vector<Case>{{kRamSize, 0},
                                         {kRamSize - 2, 0},
                                         {~uint64_t{0} - 1, 0},
                                         {0, kRamSize - 2},
                                         {0, 0x8000000000000000}}) {
    CopyByDma(c.source, c.destination, 4);
    EXPECT_EQ(Read32(kDmaStatusOffset), kDmaBadAddress) << c.source << " " << c.destination;
  }
  uint32_t kept = 0;
  ASSERT_TRUE(services_.memory().ReadObject(0, kept));
  EXPECT_EQ(kept, 0xdeadbeefu);
  uint16_t last = 1;
  ASSERT_TRUE(services_.memory().ReadObject(kRamSize - 2, last));
  EXPECT_EQ(last, 0u);
}

TEST_F(RigDeviceTest, DmaRefusesWhatItWasNotAllowedToDo) {
  CopyByDma(0, 0x1000, 4);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaNotBusMaster);
  device_->OnFunctionState({.bus_master = true});
  CopyByDma(0, 0x1000, kDmaMaxLength + 1);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaBadLength);
  Write32(kDmaCommandOffset, 77);
  EXPECT_EQ(Read32(kDmaStatusOffset), kDmaBadCommand);
}

TEST_F(RigDeviceTest, DmaInterruptsWhenAskedTo) {
  device_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  Write32(kDmaCommandOffset, kDmaCopy | kDmaInterrupt);
  EXPECT_THAT(services_.TakeMsixSignals(), ElementsAre(7));
  EXPECT_EQ(Read32(kInterruptStatusOffset), kDmaInterruptCause);
}

TEST_F(RigDeviceTest, SumAddsAndTakeCounts) {
  Write64(kSumOffset, 0x100000000);
  Write64(kSumOffset, 5);
  Write32(kSumOffset, 1);  // not whole
  EXPECT_EQ(device_->Read(kRegisterBar, kSumOffset, 8), 0x100000005u);
  EXPECT_EQ(Read32(kTakeOffset), 1u);
  EXPECT_EQ(Read32(kTakeOffset), 2u);
  Write32(kTakeOffset, 0);
  EXPECT_EQ(Read32(kTakeOffset), 1u);
}

TEST_F(RigDeviceTest, WhatChangesTheStateIsTold) {
  const auto tells = [this](const std::function<void()>& action) {
    services_.TakeStateChanges();
    action();
    return services_.TakeStateChanges() != 0;
  };
  for (const uint64_t offset :
       {kOrderNextOffset, kOrderViolationsOffset, kDoorbellCountOffset, kInterruptRaiseOffset,
        kInterruptAckOffset, kDmaSourceOffset, kDmaDestinationOffset, kDmaLengthOffset,
        kDmaCommandOffset, kTakeOffset, kScratchOffset}) {
    EXPECT_TRUE(tells([&] { Write32(offset, 0); })) << offset;
  }
  EXPECT_TRUE(tells([&] { Write64(kSumOffset, 1); }));
  EXPECT_TRUE(tells([&] { Read32(kTakeOffset); }));
  EXPECT_TRUE(tells([&] { device_->OnDoorbell(0); }));
  EXPECT_TRUE(tells([&] { device_->Write(kCapabilityRegionBase, 2, 4, 1); }));
  EXPECT_FALSE(tells([&] { Read32(kSumOffset); }));
  EXPECT_FALSE(tells([&] { Write32(kBusyOffset, 0); }));
  EXPECT_FALSE(tells([&] { device_->Write(kMemoryBar, 0, 8, 1); })) << "durable by itself";
}

TEST_F(RigDeviceTest, EveryRegisterOutlivesTheProcess) {
  device_->Write(kRegisterBar, kScratchOffset + 5, 8, 0x1122334455667788);
  device_->Write(kMemoryBar, 0x1234, 4, 0xabcdef01);
  device_->Write(kCapabilityRegionBase, 2, 4, 0xcafef00d);
  Write64(kSumOffset, 77);
  Read32(kTakeOffset);
  Write32(kOrderNextOffset, 0);
  Write32(kOrderNextOffset, 5);
  device_->OnDoorbell(0);
  Write32(kInterruptRaiseOffset, 0b100);
  CopyByDma(0x123456789, 0x987654321, 0x55);

  std::vector<uint64_t> before;
  for (uint64_t offset = 0; offset < kTakeOffset; offset += 4) before.push_back(Read32(offset));
  ASSERT_TRUE(Restart().ok());
  std::vector<uint64_t> after;
  for (uint64_t offset = 0; offset < kTakeOffset; offset += 4) after.push_back(Read32(offset));
  EXPECT_EQ(after, before);
  EXPECT_EQ(device_->Read(kRegisterBar, kScratchOffset + 5, 8), 0x1122334455667788u);
  EXPECT_EQ(device_->Read(kMemoryBar, 0x1234, 4), 0xabcdef01u);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase, 2, 4), 0xcafef00du);
  EXPECT_EQ(device_->Read(kRegisterBar, kSumOffset, 8), 77u);
  EXPECT_EQ(Read32(kTakeOffset), 2u);
}

TEST_F(RigDeviceTest, ASuccessorRaisesAgainWhatIsNotAcknowledged) {
  device_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  Write32(kInterruptRaiseOffset, 0b101);
  services_.TakeMsixSignals();
  ASSERT_TRUE(Restart({.bus_master = true, .msix_enabled = true}).ok());
  EXPECT_THAT(services_.TakeMsixSignals(), ElementsAre(0, 2));
  EXPECT_FALSE(services_.intx());
  ASSERT_TRUE(Restart().ok());
  EXPECT_TRUE(services_.intx());
}

TEST_F(RigDeviceTest, StateThatCannotBeIsRefused) {
  std::vector<uint8_t> state(device_->Describe().saved_state_bytes());
  EXPECT_TRUE(device_->Restore(state).ok());
  EXPECT_FALSE(device_->Restore(absl::MakeSpan(state).first(state.size() - 1)).ok());
  EXPECT_FALSE(device_->Restore({}).ok());
  int refused = 0;
  for (uint8_t& byte : state) {
    byte = 0xff;
    refused += device_->Restore(state).ok() ? 0 : 1;
    byte = 0;
  }
  EXPECT_EQ(refused, 4 + 3) << "DMA status, and causes that there are not";
}

TEST_F(RigDeviceTest, AResetLeavesNothing) {
  device_->Write(kRegisterBar, kScratchOffset, 8, 1);
  Write64(kSumOffset, 77);
  Write32(kInterruptRaiseOffset, 1);
  ASSERT_TRUE(services_.intx());
  device_->Reset();
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(Read32(kInterruptStatusOffset), 0u);
  EXPECT_EQ(device_->Read(kRegisterBar, kSumOffset, 8), 0u);
  EXPECT_EQ(device_->Read(kRegisterBar, kScratchOffset, 8), 0u);
  EXPECT_TRUE(device_->at_rest());
}

TEST_F(RigDeviceTest, MetricsTellTheBytesCopied) {
  device_->OnFunctionState({.bus_master = true});
  CopyByDma(0, 0x1000, 64);
  v1::DeviceMetrics metrics;
  device_->AppendMetrics(metrics);
  ASSERT_EQ(metrics.metrics_size(), 1);
  EXPECT_EQ(metrics.metrics(0).value(), 64);
}

TEST_F(RigDeviceTest, WorkGivesHeartbeatsAndBusyNone) {
  Write32(kWorkOffset, 2);
  EXPECT_GT(services_.keep_alives(), 0);
  const int before = services_.keep_alives();
  Write32(kBusyOffset, 2000);
  EXPECT_EQ(services_.keep_alives(), before);
}

TEST_F(RigDeviceTest, CrashesAreWhereTheyWereAskedFor) {
  EXPECT_DEATH(Write32(kCrashOffset, kAlways), "");
  Write32(kCrashOffset, 3);
  Write32(kCrashOffset, kOnce);  // not yet
  EXPECT_DEATH(services_.RunWatches(1000), "");
}

TEST_F(RigDeviceTest, BusyTakesItsTimeAndNoMore) {
  const auto start = std::chrono::steady_clock::now();
  Write32(kBusyOffset, 2000);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(2));
  Write32(kBusyOffset, 0xffffffff);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

}  // namespace
}  // namespace bulkhead::devices::rig
