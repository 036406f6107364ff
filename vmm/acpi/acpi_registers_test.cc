#include "vmm/acpi/acpi_registers.h"

#include <stdint.h>

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kStatus = 4, kEnable = 6, kControl = 8, kGpeStatus = 12, kGpeEnable = 13;
constexpr uint64_t kButton = 1 << 8;

TEST(AcpiRegistersTest, SleepStateFivePowersOff) {
  const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
  AcpiRegisters registers(*end);
  registers.Write(0, 0, 1, layout::kAcpiS5Value);
  ASSERT_TRUE(end->reported());
  EXPECT_EQ(end->end().reason, EndReason::kPowerOff);
}

TEST(AcpiRegistersTest, ResetValueResets) {
  const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
  AcpiRegisters registers(*end);
  registers.Write(0, 0, 1, layout::kAcpiResetValue);
  ASSERT_TRUE(end->reported());
  EXPECT_EQ(end->end().reason, EndReason::kReset);
}

TEST(AcpiRegistersTest, Pm1ControlPowersOff) {
  const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
  AcpiRegisters registers(*end);
  registers.Write(0, kControl, 2, 5 << 10);
  EXPECT_FALSE(end->reported()) << "not without SLP_EN";
  EXPECT_EQ(registers.Read(0, kControl, 2), 5u << 10 | 1) << "and always in ACPI mode";
  registers.Write(0, kControl, 2, 5 << 10 | 1 << 13);
  ASSERT_TRUE(end->reported());
  EXPECT_EQ(end->end().reason, EndReason::kPowerOff);
}

TEST(AcpiRegistersTest, OtherValuesDoNotEndTheVm) {
  const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
  AcpiRegisters registers(*end);
  for (uint64_t offset = 0; offset < AcpiRegisters::kPortCount; ++offset) {
    for (unsigned value = 0; value <= 0xff; ++value) {
      if (offset == 0 && value == layout::kAcpiResetValue) continue;
      if ((offset == 0 || offset == kControl + 1) && value == layout::kAcpiS5Value) continue;
      registers.Write(0, offset, 1, value);
    }
  }
  EXPECT_FALSE(end->reported());
  EXPECT_EQ(registers.Read(0, 0, 1), 0u);
}

class AcpiEventTest : public ::testing::Test {
 protected:
  uint64_t Read(uint64_t offset, uint8_t size = 2) { return registers_.Read(0, offset, size); }
  void Write(uint64_t offset, uint64_t value, uint8_t size = 2) {
    registers_.Write(0, offset, size, value);
  }
  int TakeInterrupts() { return std::exchange(interrupts_, 0); }

  const std::unique_ptr<VmEndLatch> end_ = *VmEndLatch::Create();
  int interrupts_ = 0;
  AcpiRegisters registers_{*end_, [this] { ++interrupts_; }};
};

TEST_F(AcpiEventTest, AnEnabledButtonInterruptsAndItsStatusIsCleared) {
  Write(kEnable, kButton);
  EXPECT_EQ(Read(kEnable), kButton);
  EXPECT_TRUE(registers_.PressPowerButton());
  EXPECT_EQ(TakeInterrupts(), 1);
  EXPECT_EQ(Read(kStatus), kButton);
  EXPECT_EQ(Read(kStatus, 4), kButton << 16 | kButton);
  Write(kStatus, 0);
  EXPECT_EQ(Read(kStatus), kButton);
  Write(kStatus, kButton);
  EXPECT_EQ(Read(kStatus), 0u);
  TakeInterrupts();
  Write(kStatus, 0xffff);
  EXPECT_EQ(TakeInterrupts(), 0);
}

TEST_F(AcpiEventTest, APressBeforeTheButtonIsEnabledIsKept) {
  EXPECT_FALSE(registers_.has_kept_press());
  EXPECT_FALSE(registers_.PressPowerButton());
  EXPECT_FALSE(registers_.PressPowerButton());
  EXPECT_TRUE(registers_.has_kept_press());
  EXPECT_EQ(TakeInterrupts(), 0);
  // As ACPICA enables an event.
  Write(kStatus, kButton);
  Write(kEnable, kButton);
  EXPECT_EQ(TakeInterrupts(), 1);
  EXPECT_EQ(Read(kStatus), kButton);
  EXPECT_FALSE(registers_.has_kept_press());
  Write(kStatus, kButton);
  Write(kEnable, 0);
  Write(kEnable, kButton);
  EXPECT_EQ(Read(kStatus), 0u) << "once";
}

TEST_F(AcpiEventTest, ASecondEventDuringTheFirstRaisesAnotherInterrupt) {
  Write(kEnable, kButton);
  Write(kGpeEnable, 1, 1);
  registers_.PressPowerButton();
  EXPECT_EQ(TakeInterrupts(), 1);
  registers_.Wake();
  EXPECT_EQ(TakeInterrupts(), 1);
  Write(kStatus, kButton);
  EXPECT_EQ(TakeInterrupts(), 1) << "one is left";
  Write(kGpeStatus, 1, 1);
  EXPECT_EQ(TakeInterrupts(), 0);
}

TEST_F(AcpiEventTest, AWakeEventInterruptsOnceTheGuestEnablesIt) {
  registers_.Wake();
  EXPECT_EQ(TakeInterrupts(), 0);
  EXPECT_EQ(Read(kGpeStatus, 1), 1u);
  Write(kGpeEnable, 0xff, 1);
  EXPECT_EQ(Read(kGpeEnable, 1), 1u) << "there is one event";
  EXPECT_EQ(TakeInterrupts(), 1);
}

}  // namespace
}  // namespace bulkhead::vmm
