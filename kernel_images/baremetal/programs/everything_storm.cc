// All virtio devices of a machine under load at once, for a test that kills and stops their
// processes and back ends meanwhile. Each load is a task (lib/tasks.h), so the devices work at the
// same time and one that is away keeps none of the others waiting, but for its registers:
//
// - disk_storm on each disk, two at most. Its lines begin with "disk 0: " in the order of PCI;
// - net_storm, vsock_echo and balloon, each as it is, with its own end;
// - requests to the entropy source, until the disks' loads have ended: each gives some bytes, and
// not
//   those of the one before.
//
// Needs two disks and one of each other device, 64 MiB of RAM, and interrupts of each device's own.
// Options: those of the programs. All see each of them: event_index=1 is for all.

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/tasks.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"
#include "kernel_images/baremetal/programs/disk_storm.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kDiskId = (0x1040 + kBlockType) << 16 | 0x1af4;
constexpr uint32_t kDisks = 2;
constexpr uint16_t kEntropyType = 4;
constexpr uint32_t kRandomBytes = 64;

DiskStorm disk_storms[kDisks];
uint32_t disks_at_work = kDisks;

PciFunction NthDisk(uint32_t nth) {
  for (uint8_t slot = 0; slot < 32; ++slot) {
    const PciFunction function(slot, 0);
    if (function.Read<uint32_t>(kPciVendorId) == kDiskId && nth-- == 0) return function;
  }
  Fail("there are too few disks");
}

void UseDisk(uint32_t number, const char* label) {
  VirtioDevice device(NthDisk(number));
  disk_storms[number].Run(device, label);
  --disks_at_work;
}
void UseFirstDisk() { UseDisk(0, "disk 0: "); }
void UseSecondDisk() { UseDisk(1, "disk 1: "); }

void UseEntropySource() {
  alignas(64) static uint8_t bytes[2][kRandomBytes];
  const uint64_t patience = NumberOption("patience", kLongWaitCycles);
  VirtioDevice device(kEntropyType);
  device.Start(0, 1);
  Virtqueue& queue = device.queue(0);
  const uint8_t vector = device.vector(0);
  Print("rng ready\n");
  uint64_t requests = 0;
  for (uint32_t seen = InterruptCount(vector); disks_at_work > 0; ++requests) {
    uint8_t* const now = bytes[requests % 2];
    memset(now, 0, kRandomBytes);
    queue.descriptor(0) = {AddressOf(now), kRandomBytes, kDescriptorWrite, 0};
    queue.Submit(0);
    queue.Notify();
    while (!queue.HasUsed()) {
      if (!WaitFor([=] { return InterruptCount(vector) != seen; }, patience)) {
        Fail("no interrupt of the entropy source for a long time");
      }
      seen = InterruptCount(vector);
    }
    const Virtqueue::Used used = queue.TakeUsed();
    EXPECT_EQ(used.head, 0u);
    EXPECT_TRUE(used.length >= 1 && used.length <= kRandomBytes);
    // 16 equal random bytes happen once in 2^128 times.
    if (used.length >= 16) EXPECT_TRUE(memcmp(bytes[0], bytes[1], 16) != 0);
    Pause();
  }
  Print("rng requests=", requests, "\n");
  device.Reset();
}

}  // namespace

void RunEverythingStorm() {
  constexpr Task kLoads[] = {UseFirstDisk, UseSecondDisk, RunNetStorm,
                             RunVsockEcho, RunBalloon,    UseEntropySource};
  VirtioDevice::UseSeparateVectors();
  SetInterruptsEnabled(true);
  RunTasks(kLoads, sizeof(kLoads) / sizeof(kLoads[0]));
}

}  // namespace bulkhead::guest
