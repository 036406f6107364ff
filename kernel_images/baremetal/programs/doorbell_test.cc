// Doorbells of every width arrive, never overtake posted writes, and follow their BAR.
// Needs the rig.

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

uint32_t Count(uint64_t registers) { return MmioRead<uint32_t>(registers + kDoorbellCountOffset); }

bool CountPasses(uint64_t registers, uint32_t before) {
  return WaitFor([=] { return Count(registers) != before; });
}

template <typename T>
void CheckWidth(uint64_t registers) {
  const uint32_t before = Count(registers);
  MmioWrite<T>(registers + kDoorbellOffset, static_cast<T>(0xa5a5a5a5a5a5a5a5));
  EXPECT_TRUE(CountPasses(registers, before));
}

// Posts a few writes and rings: the device must have them when the doorbell reaches it.
void CheckOrder(uint64_t registers) {
  MmioWrite<uint32_t>(registers + kOrderViolationsOffset, 0);
  uint32_t next = 0;
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < round % 5 + 1; ++i) {
      MmioWrite<uint32_t>(registers + kOrderNextOffset, next++);
    }
    MmioWrite<uint32_t>(registers + kDoorbellOffset, 0);
    // One ring, one look: had it overtaken a write, this would never come true.
    EXPECT_TRUE(
        WaitFor([=] { return MmioRead<uint32_t>(registers + kDoorbellOrderOffset) == next; }));
  }
  EXPECT_EQ(MmioRead<uint32_t>(registers + kOrderViolationsOffset), 0u);
}

void CheckManyRings(uint64_t registers) {
  constexpr uint32_t kRings = 1000;
  const uint32_t before = Count(registers);
  for (uint32_t i = 0; i < kRings; ++i) MmioWrite<uint16_t>(registers + kDoorbellOffset, 0);
  EXPECT_TRUE(CountPasses(registers, before));
  Delay(kShortWaitCycles);
  const uint32_t woken = Count(registers) - before;
  Print(kRings, " rings woke the device ", woken, " times\n");
  EXPECT_TRUE(woken <= kRings);
}

void CheckNeighboursDoNotRing(uint64_t registers) {
  const uint32_t before = Count(registers);
  MmioWrite<uint32_t>(registers + kDoorbellOffset + 4, 1);
  MmioWrite<uint32_t>(registers + kDoorbellOffset - 4, 1);
  Delay(kShortWaitCycles);
  EXPECT_EQ(Count(registers), before);
}

void CheckMove(const PciFunction& function, uint64_t registers) {
  const uint64_t moved = registers + (uint64_t{16} << 20);
  const uint32_t before = Count(registers);
  function.MoveBar(kRegisterBar, moved);
  MmioWrite<uint32_t>(registers + kDoorbellOffset, 1);
  Delay(kShortWaitCycles);
  EXPECT_EQ(Count(moved), before);
  MmioWrite<uint32_t>(moved + kDoorbellOffset, 1);
  EXPECT_TRUE(CountPasses(moved, before));
  // With decoding off nothing rings, and decoding on again finds the place.
  function.ClearCommandBits(kCommandMemory);
  MmioWrite<uint32_t>(moved + kDoorbellOffset, 1);
  function.SetCommandBits(kCommandMemory);
  Delay(kShortWaitCycles);
  const uint32_t after = Count(moved);
  EXPECT_EQ(after, before + 1);
  function.MoveBar(kRegisterBar, registers);
  MmioWrite<uint32_t>(registers + kDoorbellOffset, 1);
  EXPECT_TRUE(CountPasses(registers, after));
}

}  // namespace

void RunDoorbellTest() {
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  rig.SetCommandBits(kCommandMemory);
  const uint64_t registers = rig.ReadBar(kRegisterBar).address;
  // The device host may wake a device once at its start without a ring: let that pass.
  Delay(kShortWaitCycles);
  CheckWidth<uint8_t>(registers);
  CheckWidth<uint16_t>(registers);
  CheckWidth<uint32_t>(registers);
  CheckWidth<uint64_t>(registers);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kDoorbellOffset), 0u);
  CheckOrder(registers);
  CheckManyRings(registers);
  CheckNeighboursDoNotRing(registers);
  CheckMove(rig, registers);
}

}  // namespace bulkhead::guest
