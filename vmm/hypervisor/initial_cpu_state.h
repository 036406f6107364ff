#ifndef BULKHEAD_VMM_HYPERVISOR_INITIAL_CPU_STATE_H_
#define BULKHEAD_VMM_HYPERVISOR_INITIAL_CPU_STATE_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "base/guest_memory.h"

namespace bulkhead::vmm {

// A segment register with its hidden part (Intel SDM volume 3, section 3.4.5).
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;  // in bytes: already scaled by `granularity`
  uint16_t selector = 0;
  uint8_t type = 0;             // 4 bits
  bool code_or_data = false;    // S: not a system segment
  uint8_t privilege_level = 0;  // DPL
  bool present = false;
  bool available = false;      // AVL
  bool long_mode = false;      // L
  bool default_32bit = false;  // D/B
  bool granularity = false;    // G

  bool operator==(const Segment&) const = default;
};

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;

  bool operator==(const DescriptorTable&) const = default;
};

// The registers of the first vCPU at its start. Registers that are not listed are zero or as after
// reset. The other vCPUs wait for INIT and SIPI.
struct InitialCpuState {
  uint64_t rip = 0;
  uint64_t rflags = 0x2;  // the bit that is always one
  uint64_t rsp = 0;
  uint64_t rbx = 0;
  uint64_t rsi = 0;

  Segment code;
  Segment data;  // DS, ES, FS, GS and SS
  Segment task;
  DescriptorTable gdt;
  DescriptorTable idt;  // empty: an early exception is a triple fault

  uint64_t cr0 = 0;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
};

// The state of PVH's entry: 32-bit protected mode without paging, RBX = `start_info`.
InitialCpuState PvhCpuState(GuestAddress entry, GuestAddress start_info);

// The state of Linux's 64-bit entry: long mode over the page tables of WritePageTables(),
// RSI = `zero_page`.
InitialCpuState Linux64CpuState(GuestAddress entry, GuestAddress zero_page);

// The 8-byte GDT descriptor of a segment.
uint64_t EncodeDescriptor(const Segment& segment);

// Writes the GDT that `state` refers to. Errors: Internal (no RAM there).
absl::Status WriteGdt(const InitialCpuState& state, const GuestMemory& memory);

// Writes page tables at layout::kPageTables that map the first 4 GiB to themselves.
// Errors: Internal (no RAM there).
absl::Status WritePageTables(const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HYPERVISOR_INITIAL_CPU_STATE_H_
