// Halts until a key comes, and then has the disk's process use all RAM but the first 16 MiB: it
// reads the disk's first MiB to each MiB. Prints "touched" when that is done, and halts again.
// Needs a disk of 1 MiB or more.

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint64_t kFirst = 16 << 20;  // this program is below
constexpr uint64_t kHighRam = uint64_t{1} << 32;
constexpr uint32_t kBytes = 1 << 20;
constexpr uint16_t kDepth = 16;
constexpr uint32_t kUartGsi = 4;
constexpr uint8_t kUartVector = kFirstVector + 1;  // the queue has the first one

BlockHeader header = {kRequestRead, 0, 0};
uint8_t results[kDepth];

void Submit(Virtqueue& queue, uint16_t index, uint64_t address) {
  const auto first = static_cast<uint16_t>(index * kMaxRequestDescriptors);
  results[index] = kNotYet;
  WriteRequest(&queue.descriptor(first), first, header, reinterpret_cast<const void*>(address),
               kBytes, &results[index]);
  queue.Submit(first);
}

// Takes one answer. Returns the index of its request.
uint16_t Await(Virtqueue& queue) {
  if (!WaitFor([&] { return queue.HasUsed(); })) Fail("no answer for a long time");
  const auto index = static_cast<uint16_t>(queue.TakeUsed().head / kMaxRequestDescriptors);
  EXPECT_TRUE(index < kDepth);
  EXPECT_EQ(results[index], kOk);
  return index;
}

void Touch(Virtqueue& queue) {
  uint16_t submitted = 0;
  const auto touch = [&](uint64_t begin, uint64_t end) {
    for (uint64_t address = begin; address + kBytes <= end; address += kBytes) {
      Submit(queue, submitted < kDepth ? submitted++ : Await(queue), address);
      queue.NotifyIfWanted();
    }
  };
  touch(kFirst, LowRamEnd());
  touch(kHighRam, HighRamEnd());
  for (; submitted > 0; --submitted) Await(queue);
}

}  // namespace

void RunTouchRam() {
  VirtioDevice device(kBlockType);
  device.Start(0, 1);
  Virtqueue& queue = device.queue(0);
  EXPECT_TRUE(queue.size() >= kDepth * kMaxRequestDescriptors);
  EXPECT_TRUE(device.ReadConfig<uint64_t>(0) >= kBytes / kSectorBytes);
  queue.DisableInterrupts();
  CountOnly(kUartVector);
  RouteEdgeInterrupt(kUartGsi, 0, kUartVector);
  Out8(uart::kModemControl, uart::kInterruptGate);
  Out8(uart::kInterruptEnable, uart::kReceiveInterrupt);
  SetInterruptsEnabled(true);
  for (uint32_t seen = 0;;) {
    HaltUntilInterrupt(kUartVector, seen);
    seen = InterruptCount(kUartVector);
    while (uart::HasInput()) In8(uart::kData);
    Touch(queue);
    Print("touched\n");
  }
}

}  // namespace bulkhead::guest
