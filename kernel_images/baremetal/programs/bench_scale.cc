// Keeps all virtio block devices busy at once, and counts what each of them gets done: 4 KiB reads
// at random places, several in flight at each. CPU n drives the devices whose number divided by
// `cpus` leaves n, and takes what they have answered in turn, as a driver's interrupt handlers
// would.
//
// Options:
//   mode=poll|interrupt  spin, or halt until an interrupt comes (poll)
//   cpus=N               1 to 8 (1)
//   depth=N              requests in flight at each device, 1 to 32 (8)
//   cycles=N             length of the measurement (500000000); a fifth of it is run before
// Prints for each device:
//   BENCH device=0 requests=... cycles=...

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/random.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kMaxDevices = 31;
constexpr uint32_t kMaxScaleCpus = 8;
constexpr uint32_t kMaxDepth = 32;
constexpr uint32_t kBytes = 4096;
constexpr uint16_t kVirtioVendor = 0x1af4;
constexpr uint16_t kBlockDevice = 0x1040 + kBlockType;
// RAM that nothing else uses: a buffer for each request.
constexpr uint64_t kBuffers = 16 << 20;

struct Slot {
  uint8_t result;
  alignas(16) BlockHeader header;
  alignas(16) VirtqueueDescriptor table[kMaxRequestDescriptors];
};

struct Disk {
  uint8_t number;  // on the bus
  Virtqueue queue;
  uint64_t buffers;
  uint64_t places;  // of kBytes each
  Random random = Random(1);
  Slot slots[kMaxDepth];
  uint32_t in_flight;
  // Of the last run.
  uint64_t requests;
  uint64_t cycles;
};
Disk disks[kMaxDevices];
uint32_t disk_count, cpu_count, depth;
bool interrupts;
uint64_t run_cycles;
uint32_t run_number;  // of the run that is to be done
uint32_t runs_done[kMaxScaleCpus];

uint8_t VectorOf(uint32_t cpu) { return static_cast<uint8_t>(kFirstVector + cpu); }

void Submit(Disk& disk, uint32_t index) {
  Slot& slot = disk.slots[index];
  const uint64_t place = (disk.random.Next() >> 16) % disk.places;
  slot.header = {kRequestRead, 0, place * (kBytes / kSectorBytes)};
  slot.result = kNotYet;
  const auto* buffer = reinterpret_cast<const void*>(disk.buffers + uint64_t{index} * kBytes);
  const uint16_t used = WriteRequest(slot.table, 0, slot.header, buffer, kBytes, &slot.result);
  disk.queue.descriptor(static_cast<uint16_t>(index)) = {AddressOf(slot.table), used * 16u,
                                                         kDescriptorIndirect, 0};
  disk.queue.Submit(static_cast<uint16_t>(index));
  ++disk.in_flight;
}

// Takes what the disk has answered, and submits as much again if `more`. Returns how many it took.
uint32_t Serve(Disk& disk, bool more) {
  uint32_t answered[kMaxDepth];
  uint32_t count = 0;
  do {
    if (interrupts) disk.queue.DisableInterrupts();
    while (disk.queue.HasUsed()) {
      const uint32_t index = disk.queue.TakeUsed().head;
      if (index >= depth || disk.slots[index].result != kOk) Fail("request ", index, " failed");
      answered[count++] = index;
    }
  } while (interrupts && !disk.queue.EnableInterrupts());
  disk.in_flight -= count;
  disk.requests += count;
  for (uint32_t i = 0; more && i < count; ++i) Submit(disk, answered[i]);
  if (more && count > 0) disk.queue.NotifyIfWanted();
  return count;
}

void RunOnce(uint32_t cpu) {
  const uint64_t begin = ReadTsc();
  for (uint32_t i = cpu; i < disk_count; i += cpu_count) {
    Disk& disk = disks[i];
    disk.requests = 0;
    if (!interrupts) disk.queue.DisableInterrupts();
    if (interrupts) EXPECT_TRUE(disk.queue.EnableInterrupts());
    for (uint32_t slot = 0; slot < depth; ++slot) Submit(disk, slot);
    disk.queue.NotifyIfWanted();
  }
  uint64_t last = begin;
  bool busy = true;
  while (busy) {
    const uint64_t now = ReadTsc();
    const bool more = now - begin < run_cycles;
    busy = false;
    uint32_t count = 0;
    // Before the look: an interrupt that comes after it ends the wait.
    const uint32_t seen = InterruptCount(VectorOf(cpu));
    for (uint32_t i = cpu; i < disk_count; i += cpu_count) {
      count += Serve(disks[i], more);
      busy = busy || disks[i].in_flight > 0;
    }
    if (count > 0) {
      last = now;
    } else if (now - last > kLongWaitCycles) {
      Fail("no answer for a long time");
    } else if (interrupts && busy) {
      HaltUntilInterrupt(VectorOf(cpu), seen);
    } else {
      Pause();
    }
  }
  const uint64_t cycles = ReadTsc() - begin;
  for (uint32_t i = cpu; i < disk_count; i += cpu_count) disks[i].cycles = cycles;
}

void RunOtherCpu(uint32_t cpu) {
  SetInterruptsEnabled(true);
  for (uint32_t number = 1;; ++number) {
    // acquire: pairs with the release in RunAll(), so that the length is there.
    while (__atomic_load_n(&run_number, __ATOMIC_ACQUIRE) < number) Pause();
    RunOnce(cpu);
    // release: the first CPU that sees it sees the figures.
    __atomic_store_n(&runs_done[cpu], number, __ATOMIC_RELEASE);
  }
}

void RunAll(uint64_t cycles) {
  run_cycles = cycles;
  __atomic_store_n(&run_number, run_number + 1, __ATOMIC_RELEASE);
  RunOnce(0);
  for (uint32_t cpu = 1; cpu < cpu_count; ++cpu) {
    if (!WaitFor(
            [=] { return __atomic_load_n(&runs_done[cpu], __ATOMIC_ACQUIRE) == run_number; })) {
      Fail("CPU ", cpu, " does not end");
    }
  }
}

void StartDisk(const PciFunction& function) {
  if (disk_count == kMaxDevices) Fail("more than ", kMaxDevices, " disks");
  Disk& disk = disks[disk_count];
  disk.number = function.device();
  VirtioDevice device(function);
  device.Start(kFeatureIndirect | kFeatureEventIndex, 1);
  disk.places = device.ReadConfig<uint64_t>(0) / (kBytes / kSectorBytes);
  if (disk.places == 0) Fail("a disk is smaller than one request");
  disk.buffers = kBuffers + uint64_t{disk_count} * kMaxDepth * kBytes;
  disk.random = Random(disk_count + 1);
  disk.queue = device.queue(0);
  EXPECT_TRUE(disk.queue.size() >= kMaxDepth);
  ++disk_count;
}

// Starts them, and gives each the interrupts of its disks.
void RouteToOtherCpus() {
  EXPECT_TRUE(StartOtherCpus(cpu_count, RunOtherCpu));
  for (uint32_t i = 0; i < disk_count; ++i) {
    const uint32_t cpu = i % cpu_count;
    const Msix msix(PciFunction(disks[i].number, 0));
    msix.SetMasked(0, true);
    msix.Route(0, cpu, VectorOf(cpu));
    msix.SetMasked(0, false);
  }
}

}  // namespace

void RunBenchScale() {
  interrupts = StringOption("mode", "poll")[0] == 'i';
  cpu_count = static_cast<uint32_t>(NumberOption("cpus", 1, 1, kMaxScaleCpus));
  depth = static_cast<uint32_t>(NumberOption("depth", 8, 1, kMaxDepth));
  const uint64_t cycles = NumberOption("cycles", 500'000'000, 1);
  EXPECT_TRUE(LowRamEnd() >= kBuffers + uint64_t{kMaxDevices} * kMaxDepth * kBytes);
  for (uint32_t cpu = 0; cpu < cpu_count && cpu < 4; ++cpu) CountOnly(VectorOf(cpu));
  SetInterruptsEnabled(true);
  for (uint8_t number = 0; number < 32; ++number) {
    const PciFunction function(number, 0);
    if (function.Read<uint16_t>(kPciVendorId) == kVirtioVendor &&
        function.Read<uint16_t>(kPciDeviceId) == kBlockDevice) {
      StartDisk(function);
    }
  }
  if (disk_count == 0) Fail("no disk");
  if (cpu_count > 1) RouteToOtherCpus();
  RunAll(cycles / 5);
  RunAll(cycles);
  for (uint32_t i = 0; i < disk_count; ++i) {
    Print("BENCH device=", i, " requests=", disks[i].requests, " cycles=", disks[i].cycles, "\n");
  }
}

}  // namespace bulkhead::guest
