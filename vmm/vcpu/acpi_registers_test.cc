#include "vmm/vcpu/acpi_registers.h"

#include <memory>

#include "gtest/gtest.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/vcpu/vm_end.h"

namespace bulkhead::vmm {
namespace {

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

TEST(AcpiRegistersTest, EveryOtherValueDoesNothing) {
  const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
  AcpiRegisters registers(*end);
  for (unsigned value = 0; value <= 0xff; ++value) {
    if (value == layout::kAcpiS5Value || value == layout::kAcpiResetValue) continue;
    registers.Write(0, 0, 1, value);
  }
  EXPECT_FALSE(end->reported());
  EXPECT_EQ(registers.Read(0, 0, 1), 0u);
}

}  // namespace
}  // namespace bulkhead::vmm
