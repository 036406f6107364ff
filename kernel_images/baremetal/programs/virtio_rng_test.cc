// Drives a virtio entropy device directly: random bytes arrive, by interrupt and by polling;
// a reset and a second start work; a hostile queue does no harm.
// Options: hostile=0 leaves out what other machines' devices may not survive (1); type, of a device
// that gives bytes as this one does (4).

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kEntropyType = 4;
constexpr uint32_t kBytes = 64;

alignas(64) uint8_t bytes[2][kBytes];

uint32_t Fill(Virtqueue& queue, uint8_t* buffer, uint32_t length) {
  memset(buffer, 0, length);
  queue.descriptor(0) = {reinterpret_cast<uint64_t>(buffer), length, kDescriptorWrite, 0};
  return queue.Run(0);
}

void CheckRandomBytes(VirtioDevice& device) {
  Virtqueue& queue = device.queue(0);
  for (int i = 0; i < 20; ++i) {
    uint8_t* const now = bytes[i % 2];
    const uint32_t length = Fill(queue, now, kBytes);
    EXPECT_TRUE(length >= 1 && length <= kBytes);
    if (length < 16) continue;  // too few to say more
    // 16 equal random bytes happen once in 2^120 runs.
    bool all_equal = true;
    for (uint32_t j = 1; j < 16; ++j) all_equal &= now[j] == now[0];
    EXPECT_TRUE(!all_equal);
    EXPECT_TRUE(memcmp(bytes[0], bytes[1], 16) != 0);
  }
}

void CheckInterrupt(VirtioDevice& device) {
  Virtqueue& queue = device.queue(0);
  Delay(kShortWaitCycles);  // for interrupts of earlier requests that are still on their way
  const uint32_t before = InterruptCount(kFirstVector);
  Fill(queue, bytes[0], kBytes);
  EXPECT_TRUE(WaitFor([=] { return InterruptCount(kFirstVector) == before + 1; }));
  queue.SetInterruptsWanted(false);
  Fill(queue, bytes[0], kBytes);
  Delay(kShortWaitCycles);
  EXPECT_EQ(InterruptCount(kFirstVector), before + 1);
  queue.SetInterruptsWanted(true);
}

// For any contents of the queue, the device answers its registers, and works after a reset.
void CheckHostile(VirtioDevice& device) {
  const VirtqueueDescriptor hostile[] = {
      {~uint64_t{0} - 16, kBytes, kDescriptorWrite, 0},   // wraps
      {LowRamEnd(), kBytes, kDescriptorWrite, 0},         // not RAM
      {reinterpret_cast<uint64_t>(bytes), kBytes, 0, 0},  // not writable
      {reinterpret_cast<uint64_t>(bytes), kBytes, kDescriptorWrite | kDescriptorNext, 0},  // loop
      {reinterpret_cast<uint64_t>(bytes), kBytes, kDescriptorWrite | kDescriptorNext, 999},
      {reinterpret_cast<uint64_t>(bytes), 0xffffffff, kDescriptorWrite, 0},
      {LowRamEnd(), 16, kDescriptorIndirect, 0},
  };
  for (const VirtqueueDescriptor& descriptor : hostile) {
    Virtqueue& queue = device.queue(0);
    queue.descriptor(0) = descriptor;
    queue.Submit(0);
    queue.Notify();
    Delay(kShortWaitCycles);
    EXPECT_TRUE(device.status() != 0xff);
    device.Start(0, 1);
    CheckRandomBytes(device);
  }
  // An index that claims more than the queue holds.
  device.queue(0).ForceAvailableIndex(0x8000);
  device.queue(0).Notify();
  Delay(kShortWaitCycles);
  device.Start(0, 1);
  CheckRandomBytes(device);
  // A head beyond the queue.
  device.queue(0).Submit(0xfff0);
  device.queue(0).Notify();
  Delay(kShortWaitCycles);
  device.Start(0, 1);
  CheckRandomBytes(device);
}

}  // namespace

void RunVirtioRngTest() {
  SetInterruptsEnabled(true);
  VirtioDevice device(static_cast<uint16_t>(NumberOption("type", kEntropyType)));
  for (int start = 0; start < 3; ++start) {
    device.Start(0, 1);
    CheckRandomBytes(device);
    CheckInterrupt(device);
  }
  if (NumberOption("hostile", 1) != 0) CheckHostile(device);
  device.Reset();
}

}  // namespace bulkhead::guest
