#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_CPU_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_CPU_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/entry_constants.h"

// The processors: instructions that C++ has no words for, privileged calls, other CPUs.
//
// Programs run at CPL3 with port access by the TSS bitmap. All memory is identity-mapped.

namespace bulkhead::guest {

inline constexpr uint32_t kMaxCpus = BULKHEAD_MAX_CPUS;

// ---- Port I/O and memory-mapped I/O, exactly one access each ------------------------------------
inline void Out8(uint16_t port, uint8_t value) {
  asm volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
inline void Out16(uint16_t port, uint16_t value) {
  asm volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}
inline void Out32(uint16_t port, uint32_t value) {
  asm volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
inline uint8_t In8(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
inline uint16_t In16(uint16_t port) {
  uint16_t value;
  asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
inline uint32_t In32(uint16_t port) {
  uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

// T: uint8_t, uint16_t, uint32_t or uint64_t. The memory clobbers keep the order against DMA.
template <typename T>
inline T MmioRead(uint64_t address) {
  T value;
  asm volatile("mov %1, %0"
               : "=r"(value)
               : "m"(*reinterpret_cast<const volatile T*>(address))
               : "memory");
  return value;
}
template <typename T>
inline void MmioWrite(uint64_t address, T value) {
  asm volatile("mov %1, %0"
               : "=m"(*reinterpret_cast<volatile T*>(address))
               : "r"(value)
               : "memory");
}

// Set while there are tasks (tasks.h), on the first CPU: what waits calls it.
inline void (*let_others_run)() = nullptr;

inline void Pause() {
  asm volatile("pause" ::: "memory");
  if (let_others_run != nullptr) let_others_run();
}

// ---- Time: the timestamp counter is all there is

inline uint64_t ReadTsc() {
  uint32_t low, high;
  asm volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
  return (uint64_t{high} << 32) | low;
}

// Generous bounds that hold for any TSC from 1 to 5 GHz and for emulated machines.
inline constexpr uint64_t kLongWaitCycles = 30'000'000'000;  // something that must happen
inline constexpr uint64_t kShortWaitCycles = 20'000'000;     // something that must not

// Waits until `condition()` holds. False if it did not within `cycles`.
template <typename Condition>
bool WaitFor(Condition condition, uint64_t cycles = kLongWaitCycles) {
  const uint64_t start = ReadTsc();
  while (!condition()) {
    if (ReadTsc() - start > cycles) return false;
    Pause();
  }
  return true;
}
inline void Delay(uint64_t cycles) {
  WaitFor([] { return false; }, cycles);
}

// ---- Privileged calls

struct InterruptFrame {
  uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  uint64_t vector, error_code;
  uint64_t rip, cs, rflags, rsp, ss;
};
using PrivilegedFunction = uint64_t (*)(InterruptFrame& frame, uint64_t argument);

// Runs `function` at CPL0, interrupts off there, through an invalid-opcode exception: KVMs that
// interpret CPL0 code need not know software interrupts, but they all deliver exceptions.
inline constexpr uint64_t kPrivilegedCallMagic = 0x6b6c754263657845;
inline uint64_t RunPrivileged(PrivilegedFunction function, uint64_t argument = 0) {
  uint64_t result = kPrivilegedCallMagic;
  asm volatile("ud2" : "+a"(result) : "D"(function), "S"(argument) : "memory");
  return result;
}

void SetInterruptsEnabled(bool enabled);  // of the calling CPU; initially off
// Stops this CPU for good.
[[noreturn]] void Park();

// ---- Other CPUs
// ---------------------------------------------------------------------------------- The index of
// the calling CPU: 0 for the first, then in order of arrival.
uint32_t CurrentCpu();
uint32_t ApicId(uint32_t cpu);

// Starts all other CPUs, once, and waits until `count` run in all. Each runs `entry(its index)`
// at CPL3, interrupts off, and is parked when that returns. False if they did not come.
bool StartOtherCpus(uint32_t count, void (*entry)(uint32_t cpu));

// Mutual exclusion. Any running CPU may take it: order of arrival would make all wait for a CPU
// that its host does not run just now.
class SpinLock {
 public:
  void Lock() {
    // acquire: pairs with the release in Unlock(), so that the last holder's writes are seen.
    while (__atomic_exchange_n(&held_, true, __ATOMIC_ACQUIRE)) Pause();
  }
  void Unlock() { __atomic_store_n(&held_, false, __ATOMIC_RELEASE); }

 private:
  bool held_ = false;
};

// Maps [address, address + size_bytes) above 4 GiB and below 512 GiB, uncached. Below 4 GiB
// everything is mapped. False: no page directory is left.
bool MapDeviceMemory(uint64_t address, uint64_t size_bytes);

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_CPU_H_
