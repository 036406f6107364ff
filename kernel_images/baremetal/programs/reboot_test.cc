// Resets the machine again and again and looks each time whether it came up as after power-on:
// RAM, the program's own image, the rig and its interrupts. Counts its boots in the first sector of
// a virtio block device, whose contents outlive a reset.
// Needs a virtio block device; with rig=1 the rig too.
// Options:
//   boots=N    so many in all, then passes (3)
//   then_idle=1  runs on instead of passing (0)
//   by_key=1   waits for a key before each reset (0)
//   rig=1      looks at the rig as well, and leaves it in a mess (0)
//   button=N   from boot N on enables ACPI's power button, prints whether it is pressed (0: never)
//   cpus=N     the others read the rig while the first one resets (1)

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

constexpr uint16_t kPm1Status = 0x604;
constexpr uint16_t kPm1Enable = 0x606;
constexpr uint16_t kPowerButton = 1 << 8;

struct Sector {
  uint64_t boots;
  uint8_t rest[kSectorBytes - sizeof(uint64_t)];
};

alignas(kSectorBytes) Sector sector;
alignas(16) BlockHeader header;
uint8_t result;
uint32_t of_the_image = 0x1234;  // as it is in the file, at every boot

void TransferFirstSector(Virtqueue& queue, uint32_t type) {
  header = {type, 0, 0};
  result = 0xff;
  WriteRequest(&queue.descriptor(0), 0, header, &sector, sizeof(sector), &result);
  queue.Run(0);
  EXPECT_EQ(result, 0);
}

void CheckRamAndSpoilIt() {
  EXPECT_EQ(of_the_image, 0x1234u);
  of_the_image = 0;
  // Far from what the vmm loads.
  for (uint64_t address = LowRamEnd() - 0x10000; address < LowRamEnd(); address += 8) {
    EXPECT_EQ(*reinterpret_cast<volatile uint64_t*>(address), 0u);
    *reinterpret_cast<volatile uint64_t*>(address) = 0x5555555555555555;
  }
}

void CheckRig(const PciFunction& rig, uint64_t registers) {
  EXPECT_EQ(rig.Read<uint16_t>(kPciCommand) & kCommandBusMaster, 0);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kIdentificationOffset), kIdentification);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kFunctionStateOffset), 0u);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kOrderNextOffset), 0u);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kInterruptStatusOffset), 0u);
  for (uint64_t i = 0; i < kScratchSize; i += 4) {
    EXPECT_EQ(MmioRead<uint32_t>(registers + kScratchOffset + i), 0u);
  }
}

// No interrupt of the boot before is delivered, and one of this boot is.
void CheckInterrupts(const Msix& msix, uint64_t registers) {
  for (uint32_t entry = 0; entry < kMsixVectors; ++entry) {
    msix.Route(entry, 0, static_cast<uint8_t>(kFirstVector + 8 + entry));
    msix.SetMasked(entry, false);
  }
  msix.SetEnabled(true);
  Delay(kShortWaitCycles);
  for (uint32_t entry = 0; entry < kMsixVectors; ++entry) {
    EXPECT_EQ(InterruptCount(static_cast<uint8_t>(kFirstVector + 8 + entry)), 0u);
  }
  MmioWrite<uint32_t>(registers + kInterruptRaiseOffset, 1u << 2);
  EXPECT_TRUE(WaitFor([] { return InterruptCount(kFirstVector + 8 + 2) == 1; }));
}

// Leaves everything behind that a reset has to take away.
void SpoilRig(const Msix& msix, uint64_t registers) {
  for (uint32_t entry = 0; entry < kMsixVectors; ++entry) msix.SetMasked(entry, true);
  MmioWrite<uint32_t>(registers + kInterruptRaiseOffset, 0xff);  // pending in every vector
  for (uint32_t i = 0; i < 5; ++i) MmioWrite<uint32_t>(registers + kOrderNextOffset, i);
  for (uint64_t i = 0; i < kScratchSize; i += 4) {
    MmioWrite<uint32_t>(registers + kScratchOffset + i, 0xa5a5a5a5);
  }
  EXPECT_EQ(MmioRead<uint32_t>(registers + kInterruptStatusOffset), 0xffu);
  MmioWrite<uint32_t>(registers + kDoorbellOffset, 1);
}

uint64_t rig_registers = 0;

void ReadForEver(uint32_t) {
  while (true) {
    if (rig_registers != 0) {
      EXPECT_EQ(MmioRead<uint32_t>(rig_registers + kIdentificationOffset), kIdentification);
    }
    Pause();
  }
}

}  // namespace

void RunRebootTest() {
  SetInterruptsEnabled(true);
  CheckRamAndSpoilIt();

  VirtioDevice disk(kBlockType);
  disk.Start(0, 1);
  TransferFirstSector(disk.queue(0), kRequestRead);
  const uint64_t boots = ++sector.boots;
  TransferFirstSector(disk.queue(0), kRequestWrite);
  Print("boot ", boots, "\n");

  if (NumberOption("rig", 0) != 0) {
    const PciFunction rig = FindFunction(kVendorId, kDeviceId);
    rig_registers = rig.ReadBar(kRegisterBar).address;
    rig.SetCommandBits(kCommandMemory);
    CheckRig(rig, rig_registers);
    const Msix msix(rig);
    rig.SetCommandBits(kCommandBusMaster);
    CheckInterrupts(msix, rig_registers);
    SpoilRig(msix, rig_registers);
  }
  const auto cpus = static_cast<uint32_t>(NumberOption("cpus", 1));
  if (cpus > 1) EXPECT_TRUE(StartOtherCpus(cpus, ReadForEver));

  const uint64_t button = NumberOption("button", 0);
  if (button != 0 && boots >= button) {
    Out16(kPm1Status, kPowerButton);  // as ACPICA enables an event
    Out16(kPm1Enable, kPowerButton);
    Print((In16(kPm1Status) & kPowerButton) != 0 ? "button pressed\n" : "button not pressed\n");
  }

  if (boots >= NumberOption("boots", 3)) {
    while (NumberOption("then_idle", 0) != 0) Pause();
    return;
  }
  if (NumberOption("by_key", 0) != 0) {
    uart::AllowInput();
    Print("waits\n");
    while (!uart::HasInput()) Pause();
    In8(uart::kData);
  }
  if (rig_registers != 0) {
    // Posted, and perhaps not processed yet when the reset comes.
    MmioWrite<uint32_t>(rig_registers + kScratchOffset, boots & 0xffffffff);
  }
  ResetMachine();
}

}  // namespace bulkhead::guest
