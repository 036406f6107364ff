#include "kernel_images/baremetal/lib/cpu.h"

#include <stddef.h>

#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"

// Defined in entry.S.
extern "C" {
extern uint64_t gdt[];
extern uint64_t page_directory_pointers[];
extern uint32_t cpus_entered;
extern uint8_t kernel_stacks[];
extern const uint8_t trampoline_start[];
extern const uint8_t trampoline_end[];
}

namespace bulkhead::guest {
namespace {

// 64-bit task state segment (Intel SDM volume 3, 8.7), with an I/O permission bitmap that
// allows every port to CPL3.
struct [[gnu::packed]] TaskState {
  uint32_t reserved_0;
  uint64_t rsp[3];
  uint64_t reserved_1;
  uint64_t ist[7];
  uint64_t reserved_2;
  uint16_t reserved_3;
  uint16_t io_bitmap_offset;
  uint8_t io_bitmap[8192];
  uint8_t io_bitmap_end;  // all ones
};
static_assert(sizeof(TaskState) == 104 + 8193);

constexpr uint64_t kLocalApicIdRegister = kLocalApic + 0x20;
constexpr uint64_t kInterruptCommandLow = kLocalApic + 0x300;
constexpr uint32_t kIcrDeliveryPending = 1 << 12;
constexpr uint32_t kIcrInitAllButSelf = 0xc4500;
constexpr uint32_t kIcrStartupAllButSelf = 0xc4600;

alignas(16) TaskState task_states[kMaxCpus];
uint32_t apic_ids[kMaxCpus];
void (*other_cpu_entry)(uint32_t cpu);
uint32_t cpus_running = 1;

void LoadTaskRegister(uint32_t cpu) {
  TaskState& task = task_states[cpu];
  task.rsp[0] =
      reinterpret_cast<uint64_t>(kernel_stacks) + (cpu + uint64_t{1}) * BULKHEAD_KERNEL_STACK_BYTES;
  task.io_bitmap_offset = offsetof(TaskState, io_bitmap);
  task.io_bitmap_end = 0xff;
  const uint64_t base = reinterpret_cast<uint64_t>(&task);
  const uint64_t limit = sizeof(TaskState) - 1;
  uint64_t* descriptor = gdt + BULKHEAD_FIRST_TSS / 8 + 2 * cpu;
  descriptor[0] = (limit & 0xffff) | ((base & 0xffffff) << 16) | (uint64_t{0x89} << 40) |
                  ((base >> 24 & 0xff) << 56);
  descriptor[1] = base >> 32;
  const uint16_t selector = static_cast<uint16_t>(BULKHEAD_FIRST_TSS + 16 * cpu);
  asm volatile("ltr %0" ::"r"(selector) : "memory");
}

void SendToAllOthers(uint32_t command) {
  MmioWrite<uint32_t>(kInterruptCommandLow, command);
  WaitFor([] { return (MmioRead<uint32_t>(kInterruptCommandLow) & kIcrDeliveryPending) == 0; });
}

}  // namespace

void SetInterruptsEnabled(bool enabled) {
  RunPrivileged(
      [](InterruptFrame& frame, uint64_t argument) -> uint64_t {
        constexpr uint64_t kInterruptFlag = 1 << 9;
        frame.rflags =
            argument != 0 ? frame.rflags | kInterruptFlag : frame.rflags & ~kInterruptFlag;
        return 0;
      },
      enabled);
}

void Park() {
  while (true) {
    RunPrivileged([](InterruptFrame&, uint64_t) -> uint64_t {
      asm volatile("cli; hlt" ::: "memory");
      return 0;
    });
  }
}

uint32_t CurrentCpu() {
  // The task register names the CPU's task state. STR is not privileged without UMIP.
  uint16_t selector;
  asm volatile("str %0" : "=r"(selector));
  return (selector - BULKHEAD_FIRST_TSS) / 16;
}

uint32_t ApicId(uint32_t cpu) { return apic_ids[cpu]; }

bool StartOtherCpus(uint32_t count, void (*entry)(uint32_t cpu)) {
  if (count > kMaxCpus) return false;
  other_cpu_entry = entry;
  memcpy(reinterpret_cast<void*>(BULKHEAD_TRAMPOLINE), trampoline_start,
         static_cast<size_t>(trampoline_end - trampoline_start));
  SendToAllOthers(kIcrInitAllButSelf);
  Delay(30'000'000);  // 10 ms, says the MultiProcessor Specification
  SendToAllOthers(kIcrStartupAllButSelf | (BULKHEAD_TRAMPOLINE >> 12));
  return WaitFor([count] {
    // acquire: pairs with the release in UserEntry(): the CPU's APIC ID is there.
    return __atomic_load_n(&cpus_running, __ATOMIC_ACQUIRE) >= count;
  });
}

bool MapDeviceMemory(uint64_t address, uint64_t size_bytes) {
  constexpr uint64_t kGiB = 1 << 30;
  constexpr uint64_t kFlags = 0x9f;  // present, writable, user, uncached, 2 MiB
  constexpr uint32_t kDirectories = 16;
  alignas(4096) static uint64_t directories[kDirectories][512];
  static uint32_t used = 0;
  if (size_bytes == 0 || address + size_bytes < address || address + size_bytes > 512 * kGiB) {
    return false;
  }
  for (uint64_t gib = address / kGiB; gib <= (address + size_bytes - 1) / kGiB; ++gib) {
    if (page_directory_pointers[gib] != 0) continue;
    if (used == kDirectories) return false;
    uint64_t* directory = directories[used++];
    for (uint64_t i = 0; i < 512; ++i) directory[i] = (gib * kGiB + (i << 21)) | kFlags;
    // Not present until now, so no TLB holds anything about it.
    page_directory_pointers[gib] = reinterpret_cast<uint64_t>(directory) | 7;
  }
  return true;
}

}  // namespace bulkhead::guest

using namespace bulkhead::guest;

void Main();  // main.cc
// At CPL0, on each CPU, on its kernel stack: as little as possible.
extern "C" void InitializeCpu(uint32_t cpu) {
  LoadTaskRegister(cpu);
  LoadInterruptTable();
}

// At CPL3, on each CPU.
extern "C" [[noreturn]] void UserEntry(uint32_t cpu) {
  if (cpu == 0) InitializeInterrupts();
  EnableLocalApic();
  apic_ids[cpu] = MmioRead<uint32_t>(kLocalApicIdRegister) >> 24;
  if (cpu == 0) {
    Main();
  } else {
    __atomic_fetch_add(&cpus_running, 1, __ATOMIC_RELEASE);
    other_cpu_entry(cpu);
  }
  Park();
}
