#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_INTERRUPTS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_INTERRUPTS_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/entry_constants.h"

// Interrupts: counted at CPL0, looked at from CPL3. Vectors for programs: 0x30 to 0x7f.

namespace bulkhead::guest {

inline constexpr uint8_t kFirstVector = BULKHEAD_FIRST_VECTOR;
inline constexpr uint8_t kLastVector = 0x7f;

// How often `vector` was delivered, to any CPU.
uint32_t InterruptCount(uint8_t vector);
// The CPU that last received it.
uint32_t LastInterruptedCpu(uint8_t vector);

// From now on `vector`, one of the first four, is counted and no more: that takes few instructions,
// which some KVMs interpret. No handler is called, and LastInterruptedCpu() stays.
void CountOnly(uint8_t vector);
// Halts the calling CPU until InterruptCount(vector) is not `seen`; enables interrupts for good.
void HaltUntilInterrupt(uint8_t vector, uint32_t seen);

// Called at CPL0 for each `vector`, before the end-of-interrupt: must quieten a level-triggered
// source. nullptr: none.
void SetInterruptHandler(uint8_t vector, void (*handler)());

// Connects an I/O APIC input with `vector` of `cpu`, level-triggered, active high, unmasked.
void RouteLevelInterrupt(uint32_t gsi, uint32_t cpu, uint8_t vector);
// The same, edge-triggered.
void RouteEdgeInterrupt(uint32_t gsi, uint32_t cpu, uint8_t vector);
void MaskInterrupt(uint32_t gsi);

// ---- Start-up, by cpu.cc

// On each CPU, at CPL0. The first CPU fills the table afterwards, at CPL3: that is many times
// faster if the machine interprets CPL0.
void LoadInterruptTable();
void InitializeInterrupts();  // once, on the first CPU
void EnableLocalApic();       // on each CPU

inline constexpr uint64_t kLocalApic = 0xfee00000;
inline constexpr uint64_t kIoApic = 0xfec00000;

// The address of MSIs for one CPU (Intel SDM volume 3, 11.11.1): physical, fixed.
inline constexpr uint64_t MsiAddress(uint32_t apic_id) { return kLocalApic | (apic_id << 12); }

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_INTERRUPTS_H_
