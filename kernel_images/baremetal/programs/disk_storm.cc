// Keeps a virtio block device busy and checks every byte and every completion, for a test that
// kills the device's process meanwhile: writes blocks of a pattern that names block and version,
// reads them back, flushes, many requests in flight. Goes on only when an interrupt says so, so a
// lost one is noticed.
//
// At the end it flushes, reads everything back, and prints what an onlooker can check and wants to
// know: the requests done, a sum over the versions of all blocks, and the longest time without any
// completion. The disk's contents at the start do not matter.
// Options:
//   requests=N        so many requests, then the end (10000)
//   until_key=1       until a key is typed on the console; `requests` does not count then (0)
//   depth=N           in flight at once, 1 to 21 (16)
//   blocks=N          how many blocks of 4 KiB are used, at most 4096 (256)
//   seed=N            of the sequence of requests (1)
//   retry=1           submit a request again for as long as it ends with an I/O error (0)
//   patience=N        the longest wait for one interrupt, in cycles (30000000000: ten seconds)
//   indirect=1, event_index=1  negotiate these features too (0)
//   progress=N        print a line after every N requests (0: never)
//   spread=1          the data of each request lies in another 64 KiB of RAM than that of the last
//   one,
//                     all over RAM, so that the device's process uses all of it (0)
//   poke=1            a second CPU uses the first register of vendor=N, device=N all the time (0)

#include "kernel_images/baremetal/programs/disk_storm.h"

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/random.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kSectorsPerBlock = 8;
constexpr uint32_t kNoBlock = ~0u;
constexpr uint64_t kRequestsPerLook = 256;

// With `spread`: RAM below kSpreadFirst is used for other things.
constexpr uint64_t kSpreadFirst = 16 << 20;
constexpr uint64_t kSpreadStep = 64 << 10;
constexpr uint64_t kHighRam = uint64_t{1} << 32;

constexpr uint32_t kBlockWords = 4096 / 8;

// Each word of a block names block, version and its place.
uint64_t Word(uint32_t block, uint32_t version, uint32_t index) {
  return (uint64_t{version} << 32 | uint64_t{block} << 12 | index) * 0x9e3779b97f4a7c15 + version;
}

void CheckBlock(const uint64_t* words, uint32_t block, uint32_t version) {
  for (uint32_t i = 0; i < kBlockWords; ++i) {
    if (words[i] == Word(block, version, i)) continue;
    Fail("block ", block, ", word ", i, ": ", Hex(words[i]), " instead of ",
         Hex(Word(block, version, i)), " of version ", version);
  }
}

// The second CPU. The device may answer anything, or nothing.
uint64_t poked_register;
void Poke(uint32_t) {
  for (uint64_t i = 0;; ++i) {
    MmioWrite<uint64_t>(poked_register, i);
    MmioRead<uint64_t>(poked_register);
  }
}
void StartPoking() {
  const PciFunction function = FunctionFromOption(0, 0);
  poked_register = function.ReadBar(0).address;
  function.SetCommandBits(kCommandMemory);
  EXPECT_TRUE(StartOtherCpus(2, Poke));
}

}  // namespace

uint64_t* DiskStorm::NextPlace() {
  const uint64_t place = next_place_;
  next_place_ += kSpreadStep;
  if (next_place_ == LowRamEnd() && HighRamEnd() > kHighRam) next_place_ = kHighRam;
  if (next_place_ == LowRamEnd() || next_place_ == HighRamEnd()) next_place_ = kSpreadFirst;
  return reinterpret_cast<uint64_t*>(place);
}

void DiskStorm::Submit(Virtqueue& queue, uint32_t index, uint32_t type, uint32_t block) {
  Slot& slot = slots_[index];
  slot.busy = true;
  slot.type = type;
  slot.block = block;
  slot.result = kNotYet;
  slot.words = spread_ ? NextPlace() : buffers_[index];
  slot.header = {type, 0, block == kNoBlock ? 0 : uint64_t{block} * kSectorsPerBlock};
  if (block != kNoBlock) {
    block_busy_[block] = true;
    if (type == kRequestWrite) {
      ++versions_[block];
      for (uint32_t i = 0; i < kBlockBytes / 8; ++i) {
        slot.words[i] = Word(block, versions_[block], i);
      }
    } else {
      memset(slot.words, 0xee, kBlockBytes);
    }
    slot.version = versions_[block];
  }
  const uint16_t first = static_cast<uint16_t>(index * kMaxRequestDescriptors);
  // Within an indirect table the entries count from 0.
  const uint16_t base = use_indirect_ ? 0 : first;
  VirtqueueDescriptor* const entries = use_indirect_ ? slot.indirect : &queue.descriptor(first);
  const uint16_t used = WriteRequest(entries, base, slot.header, slot.words,
                                     block == kNoBlock ? 0 : kBlockBytes, &slot.result);
  if (use_indirect_) {
    queue.descriptor(first) = {AddressOf(slot.indirect), used * 16u, kDescriptorIndirect, 0};
  }
  queue.Submit(first);
}

bool DiskStorm::Complete(Virtqueue& queue) {
  const Virtqueue::Used used = queue.TakeUsed();
  const uint32_t index = used.head / kMaxRequestDescriptors;
  if (used.head % kMaxRequestDescriptors != 0 || index >= depth_ || !slots_[index].busy) {
    Fail("completion of descriptor ", used.head, ", which is not in flight");
  }
  Slot& slot = slots_[index];
  if (retry_ && slot.result == kIoError) {
    ++errors_;
    slot.result = kNotYet;
    queue.Submit(static_cast<uint16_t>(used.head));  // the descriptors are as they were
    return false;
  }
  slot.busy = false;
  EXPECT_EQ(slot.result, kOk);
  EXPECT_EQ(used.length, slot.type == kRequestRead ? kBlockBytes + 1 : 1);
  if (slot.block == kNoBlock) return true;
  block_busy_[slot.block] = false;
  if (slot.type == kRequestRead) CheckBlock(slot.words, slot.block, slot.version);
  return true;
}

void DiskStorm::SubmitNext(Virtqueue& queue, uint32_t index) {
  const uint64_t number = random_.Next();
  if (number % 64 == 0) return Submit(queue, index, kRequestFlush, kNoBlock);
  uint32_t block = static_cast<uint32_t>(number >> 32) % blocks_;
  while (block_busy_[block]) block = (block + 1) % blocks_;  // there are more blocks than slots
  const bool read = versions_[block] != 0 && number % 3 == 0;
  Submit(queue, index, read ? kRequestRead : kRequestWrite, block);
}

void DiskStorm::AwaitInterrupt(uint32_t& seen) {
  const uint32_t before = seen;
  if (!WaitFor([=, this] { return InterruptCount(vector_) != before; }, patience_)) {
    Fail("no interrupt for a long time");
  }
  seen = InterruptCount(vector_);
}

template <typename Next>
uint64_t DiskStorm::RunRequests(Virtqueue& queue, Next next) {
  uint64_t done = 0;
  uint32_t in_flight = 0;
  uint32_t seen = InterruptCount(vector_);
  uint64_t last = ReadTsc();
  bool more = true;
  while (more || in_flight > 0) {
    bool submitted = false;
    for (uint32_t index = 0; index < depth_ && more; ++index) {
      if (slots_[index].busy) continue;
      more = next(index);
      if (more) {
        submitted = true;
        ++in_flight;
      }
    }
    if (submitted) queue.Notify();
    if (in_flight == 0) break;
    while (!queue.HasUsed()) {
      // Asked for before the last look, so none can be missed between.
      if (event_index_) queue.SetUsedEvent(queue.used_seen());
      if (queue.HasUsed()) break;
      AwaitInterrupt(seen);
    }
    bool again = false;
    while (queue.HasUsed()) {
      if (Complete(queue)) {
        ++done;
        --in_flight;
      } else {
        again = true;
      }
      const uint64_t now = ReadTsc();
      if (now - last > longest_pause_) longest_pause_ = now - last;
      last = now;
    }
    if (again) queue.Notify();
  }
  return done;
}

void DiskStorm::Run(VirtioDevice& device, const char* label) {
  SetInterruptsEnabled(true);
  const bool until_key = NumberOption("until_key", 0) != 0;
  const uint64_t requests =
      until_key ? ~uint64_t{0} : NumberOption("requests", 10000, 1, ~uint64_t{0} >> 1);
  depth_ = static_cast<uint32_t>(NumberOption("depth", 16, 1, kMaxDepth));
  blocks_ = static_cast<uint32_t>(NumberOption("blocks", 256, kMaxDepth + 1, kMaxBlocks));
  retry_ = NumberOption("retry", 0) != 0;
  patience_ = NumberOption("patience", kLongWaitCycles);
  random_ = Random(NumberOption("seed", 1, 1, ~uint64_t{0} >> 1));
  use_indirect_ = NumberOption("indirect", 0) != 0;
  event_index_ = NumberOption("event_index", 0) != 0;
  const uint64_t progress = NumberOption("progress", 0);
  spread_ = NumberOption("spread", 0) != 0;
  if (spread_ && HighRamEnd() > kHighRam && !MapDeviceMemory(kHighRam, HighRamEnd() - kHighRam)) {
    Fail("more RAM than can be mapped");
  }

  vector_ = device.vector(0);
  next_place_ = kSpreadFirst;
  device.Start(kFeatureFlush | (use_indirect_ ? kFeatureIndirect : 0) |
                   (event_index_ ? kFeatureEventIndex : 0),
               1);
  EXPECT_TRUE(device.ReadConfig<uint64_t>(0) >= uint64_t{blocks_} * kSectorsPerBlock);
  Virtqueue& queue = device.queue(0);
  Print(label, "storm begins: used index at ", queue.used_index_address(), "\n");

  if (until_key) uart::AllowInput();
  if (NumberOption("poke", 0) != 0) StartPoking();
  uint64_t left = requests;
  const uint64_t begin = ReadTsc();
  const uint64_t done = RunRequests(queue, [&](uint32_t index) {
    if (left == 0) return false;
    --left;
    if (progress != 0 && (requests - left) % progress == 0) Print("progress\n");
    if (until_key && left % kRequestsPerLook == 0 && uart::HasInput()) {
      left = 0;
      return false;
    }
    SubmitNext(queue, index);
    return true;
  });
  const uint64_t cycles = ReadTsc() - begin;
  const uint64_t longest = longest_pause_;
  if (!until_key) EXPECT_EQ(done, requests);

  // Everything once more, then to the disk.
  uint32_t block = 0;
  RunRequests(queue, [&](uint32_t index) {
    while (block < blocks_ && versions_[block] == 0) ++block;
    if (block == blocks_) return false;
    Submit(queue, index, kRequestRead, block++);
    return true;
  });
  bool flushed = false;
  RunRequests(queue, [&](uint32_t index) {
    if (flushed) return false;
    flushed = true;
    Submit(queue, index, kRequestFlush, kNoBlock);
    return true;
  });
  uint64_t sum = 0;
  uint32_t newest = 0;
  for (uint32_t i = 0; i < blocks_; ++i) {
    sum = sum * 31 + versions_[i];
    if (versions_[i] > newest) newest = versions_[i];
  }
  Print(label, "storm ends: requests ", done, " cycles ", cycles, " longest ", longest, " newest ",
        newest, " versions ", sum, " errors ", errors_, "\n");
  device.Reset();
}

void RunDiskStorm() {
  static DiskStorm storm;
  VirtioDevice device(kBlockType);
  storm.Run(device, "");
}

}  // namespace bulkhead::guest
