// The device reads and writes guest memory as told, only while it is bus master, and answers
// addresses that are not RAM with an error. Needs the rig.

#include <initializer_list>

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

alignas(4096) uint8_t source[kDmaMaxLength];
alignas(4096) uint8_t destination[kDmaMaxLength + 16];

uint64_t registers;

uint32_t Copy(uint64_t from, uint64_t to, uint32_t length, uint32_t command = kDmaCopy) {
  MmioWrite<uint64_t>(registers + kDmaSourceOffset, from);
  MmioWrite<uint64_t>(registers + kDmaDestinationOffset, to);
  MmioWrite<uint32_t>(registers + kDmaLengthOffset, length);
  MmioWrite<uint32_t>(registers + kDmaCommandOffset, command);
  // Reading flushes the posted writes: the copy has been made.
  return MmioRead<uint32_t>(registers + kDmaStatusOffset);
}

void CheckLength(uint32_t length) {
  memset(destination, 0xee, sizeof(destination));
  EXPECT_EQ(Copy(AddressOf(source), AddressOf(destination) + 1, length), kDmaDone);
  EXPECT_EQ(memcmp(destination + 1, source, length), 0);
  EXPECT_EQ(destination[0], 0xee);
  EXPECT_EQ(destination[1 + length], 0xee);
}

void CheckBadAddresses() {
  const uint64_t ram = AddressOf(destination);
  memset(destination, 0xee, sizeof(destination));
  const uint64_t bad[] = {
      LowRamEnd(),  // the hole: PCI windows
      LowRamEnd() - 8,
      registers,  // no peer-to-peer
      0xfee00000,        HighRamEnd() != 0 ? HighRamEnd() : uint64_t{1} << 32,
      uint64_t{1} << 46, ~uint64_t{0} - 8,
  };
  for (const uint64_t address : bad) {
    EXPECT_EQ(Copy(address, ram, 16), kDmaBadAddress);
    EXPECT_EQ(Copy(AddressOf(source), address, 16), kDmaBadAddress);
  }
  for (uint32_t i = 0; i < 16; ++i) EXPECT_EQ(destination[i], 0xee);
  EXPECT_EQ(Copy(AddressOf(source), ram, kDmaMaxLength + 1), kDmaBadLength);
  EXPECT_EQ(Copy(AddressOf(source), ram, 16), kDmaDone);
}

}  // namespace

void RunDmaTest() {
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  registers = rig.ReadBar(kRegisterBar).address;
  rig.SetCommandBits(kCommandMemory);
  rig.ClearCommandBits(kCommandBusMaster);
  for (uint32_t i = 0; i < sizeof(source); ++i) source[i] = static_cast<uint8_t>(i * 131 >> 3);

  EXPECT_EQ(Copy(AddressOf(source), AddressOf(destination), 16), kDmaNotBusMaster);
  rig.SetCommandBits(kCommandBusMaster);
  for (const uint32_t length : {1u, 7u, 64u, 4096u, 4097u, kDmaMaxLength}) CheckLength(length);
  CheckBadAddresses();

  // The first and the last bytes of RAM above 4 GiB, where there is some.
  if (HighRamEnd() != 0) {
    for (const uint64_t high : {uint64_t{1} << 32, HighRamEnd() - 64}) {
      EXPECT_TRUE(MapDeviceMemory(high, 64));
      EXPECT_EQ(Copy(AddressOf(source), high, 64), kDmaDone);
      EXPECT_EQ(memcmp(reinterpret_cast<const void*>(high), source, 64), 0);
    }
  }

  // Completion by interrupt: when it arrives, the data is there.
  const Msix msix(rig);
  const auto entry = static_cast<uint32_t>(__builtin_ctz(kDmaInterruptCause));
  msix.Route(entry, 0, kFirstVector);
  msix.SetMasked(entry, false);
  msix.SetEnabled(true);
  SetInterruptsEnabled(true);
  memset(destination, 0, sizeof(destination));
  MmioWrite<uint32_t>(registers + kDmaLengthOffset, 4096);
  MmioWrite<uint64_t>(registers + kDmaSourceOffset, AddressOf(source));
  MmioWrite<uint64_t>(registers + kDmaDestinationOffset, AddressOf(destination));
  MmioWrite<uint32_t>(registers + kDmaCommandOffset, kDmaCopy | kDmaInterrupt);
  EXPECT_TRUE(WaitFor([] { return InterruptCount(kFirstVector) == 1; }));
  EXPECT_EQ(memcmp(destination, source, 4096), 0);

  rig.ClearCommandBits(kCommandBusMaster);
  EXPECT_EQ(Copy(AddressOf(source), AddressOf(destination), 16), kDmaNotBusMaster);
}

}  // namespace bulkhead::guest
