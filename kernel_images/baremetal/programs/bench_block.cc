// Measures a virtio block device: how many requests a second it answers, with so many in flight.
// Looks at the used ring instead of waiting for interrupts, so that the device's side is what
// limits it. The disk's contents do not matter, and are lost if it writes.
//
// Options:
//   requests=N        in each measurement (20000)
//   depth=N           in flight at once, 1 to 21 (16)
//   bytes=N           of each request: a multiple of 512 up to 4096 (4096)
//   write=1           measure writes too (0)
// Prints for reads, then for writes:
//   BENCH name=read depth=16 bytes=4096 requests=20000 cycles=...

#include <stdint.h>

#include <initializer_list>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/random.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kMaxBytes = 4096;
constexpr uint32_t kMaxDepth = Virtqueue::kMaxSize / kMaxRequestDescriptors;

struct Slot {
  uint8_t result;
  alignas(16) BlockHeader header;
};

alignas(4096) uint8_t buffers[kMaxDepth][kMaxBytes];
Slot slots[kMaxDepth];
uint32_t bytes;
uint64_t places;  // on the disk, each of `bytes`
Random random(1);

void Submit(Virtqueue& queue, uint32_t index, uint32_t type) {
  Slot& slot = slots[index];
  slot.result = kNotYet;
  slot.header = {type, 0, (random.Next() >> 16) % places * (bytes / kSectorBytes)};
  const uint16_t first = static_cast<uint16_t>(index * kMaxRequestDescriptors);
  WriteRequest(&queue.descriptor(first), first, slot.header, buffers[index], bytes, &slot.result);
  queue.Submit(first);
}

// Answers `requests` with `depth` in flight. Returns the cycles that it took.
uint64_t Run(Virtqueue& queue, uint32_t type, uint32_t depth, uint64_t requests) {
  const uint64_t begin = ReadTsc();
  uint64_t submitted = 0;
  for (; submitted < depth && submitted < requests; ++submitted) {
    Submit(queue, static_cast<uint32_t>(submitted), type);
  }
  queue.Notify();
  for (uint64_t done = 0; done < requests;) {
    if (!WaitFor([&] { return queue.HasUsed(); })) Fail("no answer for a long time");
    bool rings = false;
    while (queue.HasUsed()) {
      const uint32_t index = queue.TakeUsed().head / kMaxRequestDescriptors;
      if (index >= depth || slots[index].result != kOk) Fail("request ", index, " failed");
      ++done;
      if (submitted == requests) continue;
      ++submitted;
      rings = true;
      Submit(queue, index, type);
    }
    if (rings) queue.Notify();
  }
  return ReadTsc() - begin;
}

}  // namespace

void RunBenchBlock() {
  const uint64_t requests = NumberOption("requests", 20000, 1);
  const uint64_t depth = NumberOption("depth", 16, 1, kMaxDepth);
  const uint64_t request_bytes = NumberOption("bytes", kMaxBytes, kSectorBytes, kMaxBytes);
  if (request_bytes % kSectorBytes != 0) Fail("bytes=", request_bytes, " is not a multiple of 512");
  bytes = static_cast<uint32_t>(request_bytes);

  VirtioDevice device(kBlockType);
  device.Start(/*wanted=*/0, 1);
  places = device.ReadConfig<uint64_t>(0) / (bytes / kSectorBytes);
  if (places == 0) Fail("the disk is smaller than one request");
  Virtqueue& queue = device.queue(0);
  queue.SetInterruptsWanted(false);
  const bool write = NumberOption("write", 0) != 0;
  for (const uint32_t type : {kRequestRead, kRequestWrite}) {
    if (type == kRequestWrite && !write) break;
    Run(queue, type, static_cast<uint32_t>(depth), requests / 10 + 1);
    const uint64_t cycles = Run(queue, type, static_cast<uint32_t>(depth), requests);
    Print("BENCH name=", type == kRequestRead ? "read" : "write", " depth=", depth,
          " bytes=", request_bytes, " requests=", requests, " cycles=", cycles, "\n");
  }
  device.Reset();
}

}  // namespace bulkhead::guest
