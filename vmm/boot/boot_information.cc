#include "vmm/boot/boot_information.h"

#include <asm/bootparam.h>
#include <string.h>

#include <algorithm>

#include "vmm/boot/memory_map.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

// PVH's structures: Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
struct PvhStartInfo {
  uint32_t magic = 0x336ec578;
  uint32_t version = 1;
  uint32_t flags = 0;
  uint32_t module_count = 0;
  uint64_t module_list = 0;
  uint64_t command_line = 0;
  uint64_t rsdp = 0;
  uint64_t memory_map = 0;
  uint32_t memory_map_entries = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(PvhStartInfo) == 56);
static_assert(layout::kPvhStartInfo + sizeof(PvhStartInfo) <= layout::kPvhModules);

struct PvhModule {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
  uint64_t command_line = 0;
  uint64_t reserved = 0;
};
static_assert(sizeof(PvhModule) == 32);
static_assert(layout::kPvhModules + sizeof(PvhModule) <= layout::kPvhMemoryMap);

struct PvhMemoryMapEntry {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
  uint32_t type = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(PvhMemoryMapEntry) == 24);

constexpr uint8_t kUndefinedBootLoader = 0xff;

absl::Status NoRam() { return absl::InternalError("the guest has no RAM for boot information"); }

}  // namespace

absl::Status WritePvhStartInfo(const BootPlacement& placement, const GuestMemory& memory) {
  PvhStartInfo info;
  info.command_line = placement.command_line;
  info.rsdp = placement.rsdp;
  if (placement.initrd_bytes != 0) {
    PvhModule module;
    module.address = placement.initrd;
    module.size_bytes = placement.initrd_bytes;
    if (!memory.WriteObject(layout::kPvhModules, module)) return NoRam();
    info.module_count = 1;
    info.module_list = layout::kPvhModules;
  }

  GuestAddress next = layout::kPvhMemoryMap;
  info.memory_map = next;
  for (const MemoryMapEntry& range : BuildMemoryMap(memory)) {
    PvhMemoryMapEntry entry;
    entry.address = range.start;
    entry.size_bytes = range.size_bytes;
    entry.type = range.type;
    if (next + sizeof(entry) > layout::kZeroPage || !memory.WriteObject(next, entry)) {
      return NoRam();
    }
    next += sizeof(entry);
    ++info.memory_map_entries;
  }
  if (!memory.WriteObject(layout::kPvhStartInfo, info)) return NoRam();
  return absl::OkStatus();
}

absl::Status WriteZeroPage(const LoadedKernel& kernel, const BootPlacement& placement,
                           const GuestMemory& memory) {
  boot_params params = {};
  static_assert(sizeof(params) == 4096);
  memcpy(&params.hdr, kernel.setup_header.data(),
         std::min(kernel.setup_header.size(), sizeof(params.hdr)));
  params.hdr.type_of_loader = kUndefinedBootLoader;
  params.hdr.code32_start = static_cast<uint32_t>(kernel.start);
  params.hdr.cmd_line_ptr = static_cast<uint32_t>(placement.command_line);
  // Both fit into 32 bits: initrds are in low memory.
  params.hdr.ramdisk_image = static_cast<uint32_t>(placement.initrd);
  params.hdr.ramdisk_size = static_cast<uint32_t>(placement.initrd_bytes);
  params.acpi_rsdp_addr = placement.rsdp;
  for (const MemoryMapEntry& range : BuildMemoryMap(memory)) {
    if (params.e820_entries == E820_MAX_ENTRIES_ZEROPAGE) return NoRam();
    boot_e820_entry& entry = params.e820_table[params.e820_entries++];
    entry.addr = range.start;
    entry.size = range.size_bytes;
    entry.type = range.type;
  }
  if (!memory.WriteObject(layout::kZeroPage, params)) return NoRam();
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
