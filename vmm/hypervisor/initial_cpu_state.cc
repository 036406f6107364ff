#include "vmm/hypervisor/initial_cpu_state.h"

#include <array>

#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

// Selectors: Linux's boot protocol requires __BOOT_CS = 0x10 and __BOOT_DS = 0x18.
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;
// Null, unused, code, data, task state (two entries in long mode).
constexpr uint64_t kGdtEntries = 6;

constexpr uint64_t kCr0ProtectionEnable = 1 << 0;
constexpr uint64_t kCr0ExtensionType = 1 << 4;  // always one on today's processors
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4PhysicalAddressExtension = 1 << 5;
constexpr uint64_t kEferLongModeEnable = 1 << 8;
constexpr uint64_t kEferLongModeActive = 1 << 10;

constexpr uint8_t kTypeCode = 0xb;      // execute/read, accessed
constexpr uint8_t kTypeData = 0x3;      // read/write, accessed
constexpr uint8_t kTypeBusyTask = 0xb;  // 32- or 64-bit TSS, busy

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kLargePageBytes = 2 << 20;
constexpr uint64_t kEntriesPerTable = 512;
constexpr uint64_t kPageDirectories = 4;  // 1 GiB each
constexpr uint64_t kPagePresentWritable = 0x3;
constexpr uint64_t kPageLarge = 1 << 7;

Segment FlatSegment(uint16_t selector, uint8_t type) {
  Segment segment;
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.code_or_data = true;
  segment.present = true;
  segment.granularity = true;
  return segment;
}

InitialCpuState CommonState(GuestAddress entry) {
  InitialCpuState state;
  state.rip = entry;
  state.rsp = layout::kBootStack;
  state.code = FlatSegment(kCodeSelector, kTypeCode);
  state.data = FlatSegment(kDataSelector, kTypeData);
  state.data.default_32bit = true;
  state.task.limit = 0x67;
  state.task.selector = kTaskSelector;
  state.task.type = kTypeBusyTask;
  state.task.present = true;
  state.gdt = {layout::kGdt, kGdtEntries * sizeof(uint64_t) - 1};
  state.cr0 = kCr0ProtectionEnable | kCr0ExtensionType;
  return state;
}

}  // namespace

InitialCpuState PvhCpuState(GuestAddress entry, GuestAddress start_info) {
  InitialCpuState state = CommonState(entry);
  state.code.default_32bit = true;
  state.rbx = start_info;
  return state;
}

InitialCpuState Linux64CpuState(GuestAddress entry, GuestAddress zero_page) {
  InitialCpuState state = CommonState(entry);
  state.code.long_mode = true;
  state.rsi = zero_page;
  state.cr0 |= kCr0Paging;
  state.cr3 = layout::kPageTables;
  state.cr4 = kCr4PhysicalAddressExtension;
  state.efer = kEferLongModeEnable | kEferLongModeActive;
  return state;
}

uint64_t EncodeDescriptor(const Segment& segment) {
  const uint64_t limit = segment.granularity ? segment.limit >> 12 : segment.limit;
  return (limit & 0xffff) | (segment.base & 0xffffff) << 16 | uint64_t{segment.type} << 40 |
         uint64_t{segment.code_or_data} << 44 | uint64_t{segment.privilege_level} << 45 |
         uint64_t{segment.present} << 47 | (limit >> 16 & 0xf) << 48 |
         uint64_t{segment.available} << 52 | uint64_t{segment.long_mode} << 53 |
         uint64_t{segment.default_32bit} << 54 | uint64_t{segment.granularity} << 55 |
         (segment.base >> 24 & 0xff) << 56;
}

absl::Status WriteGdt(const InitialCpuState& state, const GuestMemory& memory) {
  std::array<uint64_t, kGdtEntries> gdt = {};
  for (const Segment* segment : {&state.code, &state.data, &state.task}) {
    gdt[segment->selector / sizeof(uint64_t)] = EncodeDescriptor(*segment);
  }
  if (!memory.WriteObject(state.gdt.base, gdt)) {
    return absl::InternalError("the guest has no RAM for the GDT");
  }
  return absl::OkStatus();
}

absl::Status WritePageTables(const GuestMemory& memory) {
  using Table = std::array<uint64_t, kEntriesPerTable>;
  const GuestAddress pml4 = layout::kPageTables;
  const GuestAddress pdpt = pml4 + kPageBytes;
  const GuestAddress first_directory = pdpt + kPageBytes;

  Table table = {pdpt | kPagePresentWritable};
  bool written = memory.WriteObject(pml4, table);
  table = {};
  for (uint64_t i = 0; i < kPageDirectories; ++i) {
    table[i] = (first_directory + i * kPageBytes) | kPagePresentWritable;
  }
  written = memory.WriteObject(pdpt, table) && written;
  GuestAddress mapped = 0;
  for (uint64_t i = 0; i < kPageDirectories; ++i) {
    for (uint64_t& entry : table) {
      entry = mapped | kPagePresentWritable | kPageLarge;
      mapped += kLargePageBytes;
    }
    written = memory.WriteObject(first_directory + i * kPageBytes, table) && written;
  }
  if (!written) return absl::InternalError("the guest has no RAM for page tables");
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
