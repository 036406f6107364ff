#include "kernel_images/baremetal/lib/interrupts.h"

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"

extern "C" const uint8_t interrupt_stubs[];  // entry.S: 16 bytes a vector
extern "C" const uint8_t counted_stubs[];    // entry.S: 32 bytes a vector, from kFirstVector on
extern "C" uint8_t kernel_stacks[];
extern "C" const uint64_t halt_call_magic;
extern "C" {
uint32_t interrupt_counts[256];  // entry.S counts here, too
}

namespace bulkhead::guest {
namespace {

// Interrupt gates (Intel SDM volume 3, 6.14.1).
struct Gate {
  uint16_t offset_low;
  uint16_t selector;
  uint8_t stack_table;
  uint8_t type;
  uint16_t offset_middle;
  uint32_t offset_high;
  uint32_t reserved;
};
static_assert(sizeof(Gate) == 16);
constexpr uint8_t kInterruptGate = 0x8e;  // interrupts off, DPL 0

struct [[gnu::packed]] TablePointer {
  uint16_t limit;
  const Gate* base;
};

constexpr uint8_t kExceptionVectors = 32;
constexpr uint8_t kInvalidOpcode = 6;
constexpr uint8_t kSpuriousVector = 0xff;

constexpr uint64_t kEndOfInterrupt = kLocalApic + 0xb0;
constexpr uint64_t kSpuriousRegister = kLocalApic + 0xf0;
constexpr uint32_t kApicEnabled = 1 << 8;
constexpr uint64_t kTaskPriority = kLocalApic + 0x80;

constexpr uint64_t kIoApicSelect = kIoApic;
constexpr uint64_t kIoApicWindow = kIoApic + 0x10;
constexpr uint32_t kRedirectionBase = 0x10;
constexpr uint32_t kRedirectionLevel = 1 << 15;
constexpr uint32_t kRedirectionMasked = 1 << 16;

alignas(16) Gate gates[256];
uint32_t last_cpus[256];
void (*handlers[256])();

void WriteIoApic(uint32_t index, uint32_t value) {
  MmioWrite<uint32_t>(kIoApicSelect, index);
  MmioWrite<uint32_t>(kIoApicWindow, value);
}

void RouteInterrupt(uint32_t gsi, uint32_t cpu, uint32_t entry) {
  WriteIoApic(kRedirectionBase + 2 * gsi, kRedirectionMasked);
  WriteIoApic(kRedirectionBase + 2 * gsi + 1, ApicId(cpu) << 24);
  WriteIoApic(kRedirectionBase + 2 * gsi, entry);
}

void SetGate(uint32_t vector, const uint8_t* stub) {
  const uint64_t address = reinterpret_cast<uint64_t>(stub);
  gates[vector] = {static_cast<uint16_t>(address),
                   BULKHEAD_KERNEL_CODE,
                   0,
                   kInterruptGate,
                   static_cast<uint16_t>(address >> 16),
                   static_cast<uint32_t>(address >> 32),
                   0};
}

[[noreturn]] void FailFromException(const InterruptFrame& frame) {
  uint64_t address;
  asm volatile("mov %%cr2, %0" : "=r"(address));
  Fail("exception ", frame.vector, " error ", Hex(frame.error_code), " at ", Hex(frame.rip),
       " level ", frame.cs & 3, " cr2 ", Hex(address));
}

}  // namespace

uint32_t InterruptCount(uint8_t vector) {
  return __atomic_load_n(&interrupt_counts[vector], __ATOMIC_ACQUIRE);
}

uint32_t LastInterruptedCpu(uint8_t vector) {
  return __atomic_load_n(&last_cpus[vector], __ATOMIC_ACQUIRE);
}

void CountOnly(uint8_t vector) {
  EXPECT_TRUE(vector >= kFirstVector && vector < kFirstVector + BULKHEAD_COUNTED_VECTORS);
  SetGate(vector, counted_stubs + 32 * (vector - kFirstVector));
}

void HaltUntilInterrupt(uint8_t vector, uint32_t seen) {
  while (InterruptCount(vector) == seen) {
    uint64_t magic = halt_call_magic;
    asm volatile("ud2" : "+a"(magic) : "D"(&interrupt_counts[vector]), "S"(seen) : "memory");
  }
}

void SetInterruptHandler(uint8_t vector, void (*handler)()) {
  __atomic_store_n(&handlers[vector], handler, __ATOMIC_RELEASE);
}

void RouteLevelInterrupt(uint32_t gsi, uint32_t cpu, uint8_t vector) {
  RouteInterrupt(gsi, cpu, kRedirectionLevel | vector);
}

void RouteEdgeInterrupt(uint32_t gsi, uint32_t cpu, uint8_t vector) {
  RouteInterrupt(gsi, cpu, vector);
}

void MaskInterrupt(uint32_t gsi) { WriteIoApic(kRedirectionBase + 2 * gsi, kRedirectionMasked); }

void InitializeInterrupts() {
  for (uint32_t vector = 0; vector < 256; ++vector) {
    SetGate(vector, interrupt_stubs + 16 * vector);
  }
  // The legacy controllers stay silent: their vectors would look like exceptions.
  Out8(0x21, 0xff);
  Out8(0xa1, 0xff);
}

void EnableLocalApic() {
  MmioWrite<uint32_t>(kTaskPriority, 0);
  MmioWrite<uint32_t>(kSpuriousRegister, kApicEnabled | kSpuriousVector);
}

void LoadInterruptTable() {
  const TablePointer pointer = {sizeof(gates) - 1, gates};
  asm volatile("lidt %0" ::"m"(pointer));
}

}  // namespace bulkhead::guest

using namespace bulkhead::guest;

// At CPL0, interrupts off.
extern "C" void OnInterrupt(InterruptFrame* frame) {
  const uint8_t vector = static_cast<uint8_t>(frame->vector);
  if (vector == kInvalidOpcode && frame->rax == kPrivilegedCallMagic) {
    frame->rip += 2;  // past the UD2
    frame->rax = reinterpret_cast<PrivilegedFunction>(frame->rdi)(*frame, frame->rsi);
    return;
  }
  if (vector < kExceptionVectors) FailFromException(*frame);
  if (vector == kSpuriousVector) return;
  if (void (*handler)() = handlers[vector]) handler();
  const uint64_t stack_offset =
      reinterpret_cast<uint64_t>(frame) - reinterpret_cast<uint64_t>(kernel_stacks);
  __atomic_store_n(&last_cpus[vector], stack_offset / BULKHEAD_KERNEL_STACK_BYTES,
                   __ATOMIC_RELAXED);
  // release: who sees the count sees the CPU and what the handler did.
  __atomic_fetch_add(&interrupt_counts[vector], 1, __ATOMIC_RELEASE);
  MmioWrite<uint32_t>(kEndOfInterrupt, 0);
}
