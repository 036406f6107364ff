// Drives a virtio block device directly: reads what the host put on it, writes and reads back,
// flushes, asks for its name, is refused beyond the end, starts anew after a reset, and stays
// well under hostile requests.
// Options:
//   pattern=1   every 8 bytes of the disk hold their own offset at the start (0: contents unknown)
//   readonly=1  writes must be refused (0)
//   indirect=1, event_index=1  negotiate these features too (0)
//   discard=1   discards all of the disk, which then reads as zeroes; discard=0: the device must
//   not
//               offer that (neither is looked at)
//   hostile=0   leaves out what other machines' devices may not survive (1)

#include <initializer_list>

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

constexpr uint64_t kFeatureReadOnly = uint64_t{1} << 5;

constexpr uint64_t kFeatureDiscard = uint64_t{1} << 13;

constexpr uint32_t kRequestGetId = 8;
constexpr uint32_t kRequestDiscard = 11;
constexpr uint8_t kUnsupported = 2;

constexpr uint32_t kSectors = 16;  // of one request, at most

alignas(4096) uint8_t data[kSectors * kSectorBytes];
alignas(4096) uint8_t copy[kSectors * kSectorBytes];
alignas(16) BlockHeader header;
uint8_t result;
alignas(16) VirtqueueDescriptor indirect_table[4];
bool use_indirect = false;

// Puts header, data in two pieces, and status into a chain at descriptor 0.
void Prepare(Virtqueue& queue, uint32_t type, uint64_t sector, uint8_t* buffer, uint32_t length) {
  header = {type, 0, sector};
  result = kNotYet;
  const bool sends = type == kRequestWrite || type == kRequestDiscard;
  const uint16_t write = sends ? 0 : kDescriptorWrite;
  VirtqueueDescriptor chain[4];
  uint16_t used = 0;
  const auto add = [&](uint64_t address, uint32_t bytes, uint16_t flags) {
    chain[used] = {address, bytes, static_cast<uint16_t>(flags | kDescriptorNext),
                   static_cast<uint16_t>(used + 1)};
    ++used;
  };
  add(AddressOf(&header), sizeof(header), 0);
  if (length > kSectorBytes) {
    add(AddressOf(buffer), kSectorBytes, write);
    add(AddressOf(buffer) + kSectorBytes, length - kSectorBytes, write);
  } else if (length > 0) {
    add(AddressOf(buffer), length, write);
  }
  add(AddressOf(&result), 1, kDescriptorWrite);
  chain[used - 1].flags = kDescriptorWrite;
  if (use_indirect) {
    memcpy(indirect_table, chain, sizeof(chain));
    queue.descriptor(0) = {AddressOf(indirect_table), used * 16u, kDescriptorIndirect, 0};
  } else {
    for (uint16_t i = 0; i < used; ++i) queue.descriptor(i) = chain[i];
  }
}

uint8_t Request(Virtqueue& queue, uint32_t type, uint64_t sector, uint8_t* buffer,
                uint32_t length) {
  Prepare(queue, type, sector, buffer, length);
  queue.Run(0);
  return result;
}

void CheckPattern(Virtqueue& queue, uint64_t capacity) {
  for (const uint64_t sector : {uint64_t{0}, capacity / 2, capacity - kSectors}) {
    EXPECT_EQ(Request(queue, kRequestRead, sector, data, sizeof(data)), kOk);
    for (uint32_t i = 0; i < sizeof(data); i += 8) {
      uint64_t value;
      memcpy(&value, data + i, 8);
      EXPECT_EQ(value, sector * kSectorBytes + i);
    }
  }
}

void CheckWriting(Virtqueue& queue, uint64_t capacity, bool has_flush) {
  // Puts back what it finds, so that the pattern survives.
  for (const uint64_t sector : {uint64_t{3}, capacity - kSectors}) {
    static uint8_t before[sizeof(data)];
    EXPECT_EQ(Request(queue, kRequestRead, sector, before, sizeof(before)), kOk);
    for (uint32_t i = 0; i < sizeof(data); ++i) data[i] = static_cast<uint8_t>(i * 37 + sector);
    EXPECT_EQ(Request(queue, kRequestWrite, sector, data, sizeof(data)), kOk);
    if (has_flush) EXPECT_EQ(Request(queue, kRequestFlush, 0, nullptr, 0), kOk);
    memset(copy, 0, sizeof(copy));
    EXPECT_EQ(Request(queue, kRequestRead, sector, copy, sizeof(copy)), kOk);
    EXPECT_EQ(memcmp(copy, data, sizeof(data)), 0);
    // One sector in the middle of it.
    EXPECT_EQ(Request(queue, kRequestRead, sector + 5, copy, kSectorBytes), kOk);
    EXPECT_EQ(memcmp(copy, data + 5 * kSectorBytes, kSectorBytes), 0);
    EXPECT_EQ(Request(queue, kRequestWrite, sector, before, sizeof(before)), kOk);
  }
}

void CheckDiscard(Virtqueue& queue, uint64_t capacity) {
  struct {
    uint64_t sector;
    uint32_t sectors;
    uint32_t flags;
  } range = {0, static_cast<uint32_t>(capacity), 0};
  EXPECT_EQ(Request(queue, kRequestDiscard, 0, reinterpret_cast<uint8_t*>(&range), sizeof(range)),
            kOk);
  EXPECT_EQ(Request(queue, kRequestRead, capacity - kSectors, data, sizeof(data)), kOk);
  for (const uint8_t byte : data) EXPECT_EQ(byte, 0);
}

void CheckRefusals(Virtqueue& queue, uint64_t capacity) {
  EXPECT_EQ(Request(queue, kRequestRead, capacity, data, kSectorBytes), kIoError);
  EXPECT_EQ(Request(queue, kRequestRead, capacity - 1, data, 2 * kSectorBytes), kIoError);
  EXPECT_EQ(Request(queue, kRequestRead, ~uint64_t{0} / kSectorBytes, data, 2 * kSectorBytes),
            kIoError);
  EXPECT_EQ(Request(queue, 0x7777, 0, nullptr, 0), kUnsupported);
  // And goes on working.
  EXPECT_EQ(Request(queue, kRequestRead, capacity - 1, data, kSectorBytes), kOk);
}

void CheckInterrupts(Virtqueue& queue, bool event_index) {
  Delay(kShortWaitCycles);  // for interrupts of earlier requests that are still on their way
  const uint32_t before = InterruptCount(kFirstVector);
  if (event_index) queue.SetUsedEvent(queue.available_index());
  EXPECT_EQ(Request(queue, kRequestRead, 0, data, kSectorBytes), kOk);
  EXPECT_TRUE(WaitFor([=] { return InterruptCount(kFirstVector) == before + 1; }));
  // Not wanted, none.
  if (event_index) {
    queue.SetUsedEvent(static_cast<uint16_t>(queue.available_index() + 100));
  } else {
    queue.SetInterruptsWanted(false);
  }
  EXPECT_EQ(Request(queue, kRequestRead, 0, data, kSectorBytes), kOk);
  Delay(kShortWaitCycles);
  EXPECT_EQ(InterruptCount(kFirstVector), before + 1);
  queue.SetInterruptsWanted(true);
}

// For any contents of a chain, the device answers its registers, and works after a reset.
void CheckHostile(VirtioDevice& device, uint64_t features) {
  struct Case {
    uint16_t position;
    VirtqueueDescriptor descriptor;
  };
  const uint64_t ram = AddressOf(data);
  const Case cases[] = {
      {1, {LowRamEnd(), kSectorBytes, kDescriptorWrite | kDescriptorNext, 2}},
      {1, {~uint64_t{0} - 8, kSectorBytes, kDescriptorWrite | kDescriptorNext, 2}},
      {1, {ram, 0xffffffff, kDescriptorWrite | kDescriptorNext, 2}},
      {1, {ram, kSectorBytes, kDescriptorWrite | kDescriptorNext, 1}},     // loop
      {1, {ram, kSectorBytes, kDescriptorWrite | kDescriptorNext, 9999}},  // beyond the table
      {1, {ram, kSectorBytes, kDescriptorWrite, 0}},                       // ends early
      {0, {AddressOf(&header), 3, kDescriptorNext, 1}},                    // header too short
      {0, {LowRamEnd(), sizeof(header), kDescriptorNext, 1}},
      {0, {AddressOf(&header), sizeof(header), kDescriptorWrite | kDescriptorNext, 1}},
      {2, {AddressOf(&result), 0, kDescriptorWrite, 0}},  // no room for the status
      {2, {LowRamEnd(), 1, kDescriptorWrite, 0}},
      {2, {AddressOf(&result), 1, 0, 0}},
  };
  use_indirect = false;
  for (const Case& c : cases) {
    Virtqueue& queue = device.queue(0);
    Prepare(queue, kRequestRead, 0, data, kSectorBytes);
    queue.descriptor(c.position) = c.descriptor;
    queue.Submit(0);
    queue.Notify();
    Delay(kShortWaitCycles);
    EXPECT_TRUE(device.status() != 0xff);
    device.Start(features, 1);
    EXPECT_EQ(Request(device.queue(0), kRequestRead, 0, data, kSectorBytes), kOk);
  }
  device.queue(0).ForceAvailableIndex(0x8000);
  device.queue(0).Notify();
  Delay(kShortWaitCycles);
  device.Start(features, 1);
  EXPECT_EQ(Request(device.queue(0), kRequestRead, 0, data, kSectorBytes), kOk);
}

}  // namespace

void RunVirtioBlkTest() {
  SetInterruptsEnabled(true);
  const bool read_only = NumberOption("readonly", 0) != 0;
  const bool indirect = NumberOption("indirect", 0) != 0;
  const bool event_index = NumberOption("event_index", 0) != 0;
  uint64_t features = (indirect ? kFeatureIndirect : 0) | (event_index ? kFeatureEventIndex : 0) |
                      (read_only ? kFeatureReadOnly : 0);
  VirtioDevice device(kBlockType);
  const uint64_t offered = device.Start(features, 1);
  const bool has_flush = (offered & kFeatureFlush) != 0;
  constexpr uint64_t kAnyDiscard = 2;
  const uint64_t discard = NumberOption("discard", kAnyDiscard);
  if (discard == 0) EXPECT_EQ(offered & kFeatureDiscard, 0);
  if (discard == 1) features |= kFeatureDiscard;
  if (has_flush) features |= kFeatureFlush;

  for (int start = 0; start < 2; ++start) {
    device.Start(features, 1);
    use_indirect = indirect;
    Virtqueue& queue = device.queue(0);
    const uint64_t capacity = device.ReadConfig<uint64_t>(0);
    EXPECT_TRUE(capacity >= 2 * kSectors);
    if (start == 0) {
      memset(data, 0, 20);
      EXPECT_EQ(Request(queue, kRequestGetId, 0, data, 20), kOk);
      data[20] = '\0';
      Print(capacity, " sectors, called '", reinterpret_cast<const char*>(data), "'\n");
    }
    if (NumberOption("pattern", 0) != 0) CheckPattern(queue, capacity);
    if (read_only) {
      EXPECT_EQ(Request(queue, kRequestWrite, 0, data, kSectorBytes), kIoError);
    } else {
      CheckWriting(queue, capacity, has_flush);
    }
    if (discard == 1) CheckDiscard(queue, capacity);
    CheckRefusals(queue, capacity);
    CheckInterrupts(queue, event_index);
  }
  if (NumberOption("hostile", 1) != 0) CheckHostile(device, features);
  device.Reset();
}

}  // namespace bulkhead::guest
