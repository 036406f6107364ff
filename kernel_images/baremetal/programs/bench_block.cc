// Measures a virtio block device from a driver that behaves as Linux's does: it negotiates flushes,
// the event index and indirect descriptors, rings the doorbell only when the device wants to hear
// it, and either polls the used ring with interrupts off or halts until an interrupt comes. The
// disk's contents do not matter, and are lost by writes.
//
// Options, each NAMES a list with commas; every combination of them is measured:
//   modes=NAMES       poll, interrupt (poll)
//   operations=NAMES  read, write: 4 KiB at random places; write+flush: the same, a flush after
//                     each; seq-read, seq-write: 128 KiB after 128 KiB (read)
//   depths=NUMBERS    requests in flight at once, 1 to 32, in each queue (1)
//   cycles=N          length of each measurement (500000000); a fifth of it is run before
//   think=N           cycles of work after each completion, before the next request (0)
//   settle=N          cycles to wait, with all buffers in use, before the first measurement (0)
//   queues=2          each driven by a CPU of its own (1)
//   event_index=0     do not negotiate the event index (1)
// Prints for each:
//   BENCH name=read mode=poll depth=16 bytes=4096 requests=... cycles=... kicks=... interrupts=...
//         p50=... p99=...
// kicks: writes of the doorbell; p50, p99: cycles from submission to completion, to 1.6 %. A write
// with its flush is one request.

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/histogram.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/name_list.h"
#include "kernel_images/baremetal/lib/random.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kMaxDepth = 32;
constexpr uint32_t kMaxQueues = 2;
constexpr uint32_t kMaxBytes = 128 << 10;
// RAM that nothing else uses: kMaxDepth buffers of kMaxBytes for each queue.
constexpr uint64_t kBuffers = 16 << 20;

struct Operation {
  const char* name;
  uint32_t type;
  uint32_t bytes;
  bool sequential;
  bool flush;  // after each
};
constexpr Operation kOperations[] = {
    {"read", kRequestRead, 4096, false, false},
    {"write", kRequestWrite, 4096, false, false},
    {"write+flush", kRequestWrite, 4096, false, true},
    {"seq-read", kRequestRead, kMaxBytes, true, false},
    {"seq-write", kRequestWrite, kMaxBytes, true, false},
};

struct Mode {
  const char* name;
  bool interrupts;
};
constexpr Mode kModes[] = {{"poll", false}, {"interrupt", true}};

struct Cell {
  const Operation* operation;
  bool interrupts;
  uint32_t depth;
  uint64_t think_cycles;
  uint64_t cycles;  // its length
};

struct Slot {
  uint64_t begin;  // of the operation
  uint8_t result;
  alignas(16) BlockHeader header;
  alignas(16) VirtqueueDescriptor table[kMaxRequestDescriptors];
};

// One queue, and what the CPU that drives it knows.
struct Driver {
  Virtqueue* queue;
  uint8_t vector;
  uint64_t buffers;
  uint64_t next_sector;
  Random random = Random(1);
  Slot slots[kMaxDepth];
  // Of the last run.
  uint64_t requests;
  uint64_t cycles;
  uint64_t kicks;
  uint64_t interrupts;
  Histogram latencies;
};
Driver drivers[kMaxQueues];
uint32_t queues;
uint64_t sectors;  // of the disk

void SubmitSlot(Driver& driver, uint32_t index, uint32_t bytes) {
  Slot& slot = driver.slots[index];
  slot.result = kNotYet;
  const auto* buffer = reinterpret_cast<const void*>(driver.buffers + uint64_t{index} * kMaxBytes);
  const uint16_t used = WriteRequest(slot.table, 0, slot.header, buffer, bytes, &slot.result);
  driver.queue->descriptor(static_cast<uint16_t>(index)) = {AddressOf(slot.table), used * 16u,
                                                            kDescriptorIndirect, 0};
  driver.queue->Submit(static_cast<uint16_t>(index));
}

void SubmitNext(Driver& driver, uint32_t index, const Operation& operation) {
  const uint32_t count = operation.bytes / kSectorBytes;
  uint64_t sector;
  if (operation.sequential) {
    sector = driver.next_sector;
    driver.next_sector = sector + 2 * count <= sectors ? sector + count : 0;
  } else {
    sector = (driver.random.Next() >> 16) % (sectors / count) * count;
  }
  Slot& slot = driver.slots[index];
  slot.header = {operation.type, 0, sector};
  slot.begin = ReadTsc();
  SubmitSlot(driver, index, operation.bytes);
}

// Takes what the device has answered: the slots' indices go to `answered`. Returns how many.
uint32_t TakeAnswers(Driver& driver, const Cell& cell, uint32_t* answered) {
  uint32_t count = 0;
  while (driver.queue->HasUsed()) {
    const uint32_t index = driver.queue->TakeUsed().head;
    if (index >= cell.depth || driver.slots[index].result != kOk)
      Fail("request ", index, " failed");
    answered[count++] = index;
  }
  return count;
}

// Waits for answers as the cell's mode does, and takes them.
uint32_t Await(Driver& driver, const Cell& cell, uint32_t& interrupts_seen, uint32_t* answered) {
  Virtqueue& queue = *driver.queue;
  if (!cell.interrupts) {
    if (!WaitFor([&] { return queue.HasUsed(); })) Fail("no answer for a long time");
    return TakeAnswers(driver, cell, answered);
  }
  // As Linux's interrupt handler: interrupts are off while it takes, and on before it returns. The
  // next requests are submitted after that.
  HaltUntilInterrupt(driver.vector, interrupts_seen);
  interrupts_seen = InterruptCount(driver.vector);
  uint32_t count = 0;
  do {
    queue.DisableInterrupts();
    count += TakeAnswers(driver, cell, answered + count);
  } while (!queue.EnableInterrupts());
  return count;
}

void Run(Driver& driver, const Cell& cell) {
  const Operation& operation = *cell.operation;
  Virtqueue& queue = *driver.queue;
  driver.latencies.Clear();
  driver.requests = 0;
  if (cell.interrupts) {
    EXPECT_TRUE(queue.EnableInterrupts());
  } else {
    queue.DisableInterrupts();
  }
  const uint32_t interrupts_before = InterruptCount(driver.vector);
  uint32_t interrupts_seen = interrupts_before;
  const uint64_t begin = ReadTsc();
  uint32_t in_flight = 0;
  while (in_flight < cell.depth) SubmitNext(driver, in_flight++, operation);
  driver.kicks = queue.NotifyIfWanted();
  bool more = true;
  while (in_flight > 0) {
    uint32_t answered[kMaxDepth];
    const uint32_t count = Await(driver, cell, interrupts_seen, answered);
    const uint64_t now = ReadTsc();
    more = more && now - begin < cell.cycles;
    in_flight -= count;
    const uint32_t before = in_flight;
    for (uint32_t i = 0; i < count; ++i) {
      Slot& slot = driver.slots[answered[i]];
      if (operation.flush && slot.header.type != kRequestFlush) {
        slot.header = {kRequestFlush, 0, 0};
        SubmitSlot(driver, answered[i], 0);
        ++in_flight;
        continue;
      }
      driver.latencies.Add(now - slot.begin);
      ++driver.requests;
      if (!more) continue;
      if (cell.think_cycles != 0) Delay(cell.think_cycles);
      SubmitNext(driver, answered[i], operation);
      ++in_flight;
    }
    if (in_flight != before) driver.kicks += queue.NotifyIfWanted();
  }
  driver.cycles = ReadTsc() - begin;
  driver.interrupts = InterruptCount(driver.vector) - interrupts_before;
}

// The second CPU runs what the first one tells it: a cell, then its number.
Cell second_cell;
uint32_t second_told, second_done;
void RunSecondCpu(uint32_t) {
  SetInterruptsEnabled(true);
  for (uint32_t number = 1;; ++number) {
    // acquire: pairs with the release in RunAll(), so that the cell is there.
    while (__atomic_load_n(&second_told, __ATOMIC_ACQUIRE) != number) Pause();
    Run(drivers[1], second_cell);
    // release: the first CPU that sees it sees the figures.
    __atomic_store_n(&second_done, number, __ATOMIC_RELEASE);
  }
}

void RunAll(const Cell& cell) {
  if (queues > 1) {
    second_cell = cell;
    __atomic_store_n(&second_told, second_done + 1, __ATOMIC_RELEASE);
  }
  Run(drivers[0], cell);
  if (queues > 1 &&
      !WaitFor([] { return __atomic_load_n(&second_done, __ATOMIC_ACQUIRE) == second_told; })) {
    Fail("the second CPU does not end");
  }
}

void Measure(Cell cell) {
  const uint64_t cycles = cell.cycles;
  cell.cycles /= 5;
  RunAll(cell);
  cell.cycles = cycles;
  RunAll(cell);
  Driver& all = drivers[0];
  if (queues > 1) {
    const Driver& second = drivers[1];
    all.requests += second.requests;
    all.cycles = all.cycles > second.cycles ? all.cycles : second.cycles;
    all.kicks += second.kicks;
    all.interrupts += second.interrupts;
    all.latencies.Add(second.latencies);
  }
  Print("BENCH name=", cell.operation->name, " mode=", cell.interrupts ? "interrupt" : "poll",
        " depth=", cell.depth, " bytes=", cell.operation->bytes, " requests=", all.requests,
        " cycles=", all.cycles, " kicks=", all.kicks, " interrupts=", all.interrupts,
        " p50=", all.latencies.Percentile(50, all.requests),
        " p99=", all.latencies.Percentile(99, all.requests), "\n");
}

uint32_t TakeDepth(const char*& list) {
  uint32_t depth = 0;
  while (*list >= '0' && *list <= '9' && depth <= kMaxDepth) depth = depth * 10 + (*list++ - '0');
  if (depth == 0 || depth > kMaxDepth) Fail("depths: 1 to ", kMaxDepth);
  if (*list == ',') ++list;
  return depth;
}

}  // namespace

void RunBenchBlock() {
  const uint64_t cycles = NumberOption("cycles", 500'000'000, 1);
  const uint64_t think_cycles = NumberOption("think", 0, 0, kLongWaitCycles);
  const uint64_t settle_cycles = NumberOption("settle", 0, 0, 4 * kLongWaitCycles);
  queues = static_cast<uint32_t>(NumberOption("queues", 1, 1, kMaxQueues));
  constexpr uint64_t kBufferBytes = uint64_t{kMaxDepth} * kMaxBytes;
  EXPECT_TRUE(LowRamEnd() >= kBuffers + kMaxQueues * kBufferBytes);

  VirtioDevice device(kBlockType);
  device.Start(kFeatureFlush | kFeatureIndirect |
                   (NumberOption("event_index", 1) != 0 ? kFeatureEventIndex : 0) |
                   (queues > 1 ? kFeatureMultiQueue : 0),
               queues);
  sectors = device.ReadConfig<uint64_t>(0);
  if (sectors < kMaxBytes / kSectorBytes) Fail("the disk is smaller than one request");
  for (uint32_t i = 0; i < queues; ++i) {
    Driver& driver = drivers[i];
    driver.queue = &device.queue(i);
    EXPECT_TRUE(driver.queue->size() >= kMaxDepth);
    driver.vector = static_cast<uint8_t>(kFirstVector + i);
    CountOnly(driver.vector);
    driver.buffers = kBuffers + i * kBufferBytes;
    driver.random = Random(i + 1);
  }
  // RAM that a VMM gathers into huge pages while the guest runs is gathered by then.
  for (uint64_t offset = 0; offset < queues * kBufferBytes; offset += 4096) {
    *reinterpret_cast<volatile uint8_t*>(kBuffers + offset) = 1;
  }
  if (settle_cycles != 0) Delay(settle_cycles);
  SetInterruptsEnabled(true);
  if (queues > 1) {
    EXPECT_TRUE(StartOtherCpus(2, RunSecondCpu));
    device.msix().SetMasked(1, true);
    device.msix().Route(1, 1, drivers[1].vector);
    device.msix().SetMasked(1, false);
  }

  for (const char* modes = StringOption("modes", "poll"); *modes != '\0';) {
    const bool interrupts = TakeName(modes, kModes).interrupts;
    for (const char* names = StringOption("operations", "read"); *names != '\0';) {
      const Operation& operation = TakeName(names, kOperations);
      for (const char* depths = StringOption("depths", "1"); *depths != '\0';) {
        Measure({&operation, interrupts, TakeDepth(depths), think_cycles, cycles});
      }
    }
  }
  device.Reset();
}

}  // namespace bulkhead::guest
