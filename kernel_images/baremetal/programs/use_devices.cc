// Uses every device in every way that leaves something behind in it, and checks all that comes
// back, for a test in which their processes die at given places: a disk with many requests in
// flight, random bytes, the console both ways, resets of a device by its driver and by its PCI
// function, and at last one of the machine, after which it does all of that again.
//
// Each step prints a line, so that the test knows what the console must have printed. Each step
// waits for an interrupt. Needs a virtio block device of 1 MiB, which it writes, a virtio entropy
// device, and a console whose other end types kTyped after each "type".
//
//   rounds=N     of all that after each start of the machine, with resets of functions between (2)
//   patience=N   the longest wait for one interrupt, in cycles (30000000000: ten seconds)

#include <stdint.h>

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

constexpr char kTyped[] = "every byte of this, once and in order.";

// Advanced Features (PCI Conventional, ECN of 2006): function-level reset.
constexpr uint8_t kCapabilityAdvancedFeatures = 0x13;
constexpr uint16_t kAdvancedFeaturesControl = 4;
constexpr uint8_t kInitiateReset = 1 << 0;

constexpr uint16_t kEntropyType = 4;
constexpr uint32_t kBlockBytes = 4096;
constexpr uint32_t kBlocks = 16;  // at once; with three descriptors each
constexpr uint32_t kRounds = 4;

alignas(16) BlockHeader headers[kBlocks];
alignas(4096) uint64_t blocks[kBlocks][kBlockBytes / 8];
uint8_t results[kBlocks];

uint64_t patience;

uint64_t Word(uint64_t block, uint64_t version, uint64_t index) {
  return (version << 32 | block << 12 | index) * 0x9e3779b97f4a7c15 + version;
}

// Waits for `count` completions, each announced by an interrupt.
void AwaitUsed(Virtqueue& queue, uint32_t count, uint32_t& interrupts) {
  while (count > 0) {
    if (!queue.HasUsed()) {
      if (!WaitFor([&] { return InterruptCount(kFirstVector) != interrupts; }, patience)) {
        Fail("no interrupt for a long time");
      }
      interrupts = InterruptCount(kFirstVector);
      continue;
    }
    queue.TakeUsed();
    --count;
  }
  if (queue.HasUsed()) Fail("a completion of nothing");
}

void Transfer(Virtqueue& queue, uint32_t type, uint32_t first, uint32_t count, uint32_t bytes) {
  uint32_t interrupts = InterruptCount(kFirstVector);
  for (uint32_t i = 0; i < count; ++i) {
    headers[i] = {type, 0, uint64_t{first + i} * (kBlockBytes / kSectorBytes)};
    results[i] = 0xff;
    const auto head = static_cast<uint16_t>(kMaxRequestDescriptors * i);
    WriteRequest(&queue.descriptor(head), head, headers[i], blocks[i], bytes, &results[i]);
    queue.Submit(head);
  }
  queue.Notify();
  AwaitUsed(queue, count, interrupts);
  for (uint32_t i = 0; i < count; ++i) EXPECT_EQ(results[i], 0u);
}

// How often the machine was started, which the disk remembers in its first block.
uint64_t CountBoot() {
  VirtioDevice disk(kBlockType);
  disk.Start(0, 1);
  Transfer(disk.queue(0), kRequestRead, 0, 1, kSectorBytes);
  const uint64_t boots = ++blocks[0][0];
  Transfer(disk.queue(0), kRequestWrite, 0, 1, kSectorBytes);
  disk.Reset();
  return boots;
}

void UseDisk() {
  VirtioDevice disk(kBlockType);
  disk.Start(0, 1);
  Virtqueue& queue = disk.queue(0);
  for (uint64_t version = 1; version <= kRounds; ++version) {
    for (uint32_t block = 0; block < kBlocks; ++block) {
      for (uint32_t i = 0; i < kBlockBytes / 8; ++i) blocks[block][i] = Word(block, version, i);
    }
    Transfer(queue, kRequestWrite, 1, kBlocks, kBlockBytes);
    memset(blocks, 0xee, sizeof(blocks));
    Transfer(queue, kRequestRead, 1, kBlocks, kBlockBytes);
    for (uint32_t block = 0; block < kBlocks; ++block) {
      for (uint32_t i = 0; i < kBlockBytes / 8; ++i) {
        EXPECT_EQ(blocks[block][i], Word(block, version, i));
      }
    }
  }
  disk.Reset();
}

void UseEntropy() {
  static uint8_t bytes[2][64];
  VirtioDevice device(kEntropyType);
  device.Start(0, 1);
  Virtqueue& queue = device.queue(0);
  for (uint32_t round = 0; round < kRounds; ++round) {
    uint32_t interrupts = InterruptCount(kFirstVector);
    for (uint16_t i = 0; i < 2; ++i) {
      memset(bytes[i], 0, sizeof(bytes[i]));
      queue.descriptor(i) = {AddressOf(bytes[i]), sizeof(bytes[i]), kDescriptorWrite, 0};
      queue.Submit(i);
    }
    queue.Notify();
    AwaitUsed(queue, 2, interrupts);
    EXPECT_TRUE(memcmp(bytes[0], bytes[1], sizeof(bytes[0])) != 0);
  }
  device.Reset();
}

void ResetFunction(uint16_t type) {
  const PciFunction function = VirtioDevice(type).function();
  const uint16_t capability = function.FindCapability(kCapabilityAdvancedFeatures);
  if (capability == 0) Fail("no function-level reset");
  function.Write<uint8_t>(static_cast<uint16_t>(capability + kAdvancedFeaturesControl),
                          kInitiateReset);
}

void UseConsole() {
  uart::AllowInput();
  Print("type\n");
  for (uint32_t i = 0; i + 1 < sizeof(kTyped); ++i) {
    if (!WaitFor(uart::HasInput, patience)) Fail("nothing is typed after ", i, " bytes");
    EXPECT_EQ(In8(uart::kData), static_cast<uint8_t>(kTyped[i]));
  }
  Print("typed\n");
}

}  // namespace

void RunUseDevices() {
  SetInterruptsEnabled(true);
  const uint64_t rounds = NumberOption("rounds", 2, 1);
  patience = NumberOption("patience", kLongWaitCycles);
  const uint64_t boots = CountBoot();
  Print("boot ", boots, "\n");
  for (uint64_t round = 1; round <= rounds; ++round) {
    UseDisk();
    Print("disk\n");
    UseEntropy();
    Print("entropy\n");
    UseConsole();
    if (round == rounds) break;
    ResetFunction(kBlockType);
    ResetFunction(kEntropyType);
    Print("reset\n");
  }
  if (boots > 1) return;
  ResetMachine();
}

}  // namespace bulkhead::guest
