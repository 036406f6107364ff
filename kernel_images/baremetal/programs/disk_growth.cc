// Writes and reads the first and the last sectors of a virtio block device whose capacity changes
// meanwhile, and believes only interrupts about that. Prints each capacity.
// Options: until=N  ends once the device has N sectors or more

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kSectors = 8;  // of one request
constexpr uint8_t kConfigInterrupt = kFirstVector + 1;

alignas(4096) uint8_t data[kSectors * kSectorBytes];

void Request(Virtqueue& queue, uint32_t type, uint64_t sector) {
  static BlockHeader header;
  static uint8_t result;
  header = {type, 0, sector};
  result = kNotYet;
  WriteRequest(&queue.descriptor(0), 0, header, data, sizeof(data), &result);
  queue.Run(0);
  EXPECT_EQ(result, kOk);
}

void WriteAndRead(Virtqueue& queue, uint64_t sector, uint64_t round) {
  const uint8_t pattern = static_cast<uint8_t>(round * 37 + sector);
  memset(data, pattern, sizeof(data));
  Request(queue, kRequestWrite, sector);
  memset(data, ~pattern, sizeof(data));
  Request(queue, kRequestRead, sector);
  for (const uint8_t byte : data) EXPECT_EQ(byte, pattern);
}

}  // namespace

void RunDiskGrowth() {
  const uint64_t until = NumberOption("until", 0);
  SetInterruptsEnabled(true);
  VirtioDevice device(kBlockType);
  device.Start(0, 1);
  device.RouteConfigInterrupt(1, kConfigInterrupt);
  uint32_t seen = InterruptCount(kConfigInterrupt);
  uint64_t sectors = device.ReadConfig<uint64_t>(0);
  Print("starts with ", sectors, " sectors\n");
  for (uint64_t round = 0; sectors < until; ++round) {
    WriteAndRead(device.queue(0), 0, round);
    WriteAndRead(device.queue(0), sectors - kSectors, round);
    if (InterruptCount(kConfigInterrupt) == seen) continue;
    seen = InterruptCount(kConfigInterrupt);
    sectors = device.ReadConfig<uint64_t>(0);
    Print("has ", sectors, " sectors\n");
    WriteAndRead(device.queue(0), sectors - kSectors, round);
  }
  device.Reset();
}

}  // namespace bulkhead::guest
