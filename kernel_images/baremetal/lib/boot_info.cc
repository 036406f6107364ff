#include "kernel_images/baremetal/lib/boot_info.h"

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"

extern "C" uint64_t pvh_start_info;  // entry.S

namespace bulkhead::guest {
namespace {

// Xen's public/arch-x86/hvm/start_info.h, version 1.
struct StartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t module_count;
  uint64_t module_list;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);
constexpr uint32_t kStartInfoMagic = 0x336ec578;

struct MemoryMapEntry {
  uint64_t address;
  uint64_t size_bytes;
  uint32_t type;
  uint32_t reserved;
};
constexpr uint32_t kRamType = 1;

// ACPI 6.4, sections 5.2.5.3, 5.2.6, 5.2.12.
struct [[gnu::packed]] Rsdp {
  char signature[8];
  uint8_t checksum;
  char oem_id[6];
  uint8_t revision;
  uint32_t rsdt;
  uint32_t length;
  uint64_t xsdt;
};
struct [[gnu::packed]] TableHeader {
  char signature[4];
  uint32_t length;
  uint8_t revision;
  uint8_t checksum;
  char oem[18];
  uint32_t creator[2];
};
static_assert(sizeof(TableHeader) == 36);
constexpr uint64_t kMcfgFirstEntry = 44;
constexpr uint64_t kMadtFirstEntry = 44;
constexpr uint8_t kMadtLocalApic = 0;
constexpr uint8_t kMadtLocalX2Apic = 9;
constexpr uint32_t kMadtEnabled = 1;

constexpr uint64_t kFourGiB = uint64_t{1} << 32;
constexpr uint32_t kCommandLineBytes = 2048;

char command_line[kCommandLineBytes];
uint64_t rsdp_address;
uint64_t low_ram_end;
uint64_t high_ram_end;

uint8_t Sum(const void* table, uint32_t length) {
  uint8_t sum = 0;
  for (uint32_t i = 0; i < length; ++i) sum += static_cast<const uint8_t*>(table)[i];
  return sum;
}

template <typename T>
T ReadAt(const void* base, uint64_t offset) {
  T value;
  memcpy(&value, static_cast<const uint8_t*>(base) + offset, sizeof(T));
  return value;
}

// nullptr: there is none. A table with a bad checksum fails the program.
const TableHeader* FindTable(const char* signature) {
  if (rsdp_address == 0) return nullptr;
  const auto* rsdp = reinterpret_cast<const Rsdp*>(rsdp_address);
  if (memcmp(rsdp->signature, "RSD PTR ", 8) != 0) Fail("no RSDP where the start info says");
  if (Sum(rsdp, 20) != 0) Fail("RSDP checksum");
  // Revision 0 (as of SeaBIOS) has a table of 32-bit pointers only.
  const bool wide = rsdp->revision >= 2 && rsdp->xsdt != 0;
  const auto* root = reinterpret_cast<const TableHeader*>(wide ? rsdp->xsdt : rsdp->rsdt);
  if (Sum(root, root->length) != 0) Fail("root table checksum");
  const uint32_t pointer_bytes = wide ? 8 : 4;
  for (uint64_t at = sizeof(TableHeader); at + pointer_bytes <= root->length; at += pointer_bytes) {
    const uint64_t address = wide ? ReadAt<uint64_t>(root, at) : ReadAt<uint32_t>(root, at);
    const auto* table = reinterpret_cast<const TableHeader*>(address);
    if (memcmp(table->signature, signature, 4) != 0) continue;
    if (Sum(table, table->length) != 0) Fail(signature, " checksum");
    return table;
  }
  return nullptr;
}

// The value after "name=", or nullptr.
const char* FindOption(const char* name) {
  const size_t length = strlen(name);
  for (const char* word = command_line; *word != '\0';) {
    if (strlen(word) > length && memcmp(word, name, length) == 0 && word[length] == '=') {
      return word + length + 1;
    }
    word += strlen(word) + 1;
  }
  return nullptr;
}

}  // namespace

void ReadBootInfo() {
  const auto* info = reinterpret_cast<const StartInfo*>(pvh_start_info);
  if (info->magic != kStartInfoMagic) Fail("start info magic is ", Hex(info->magic));
  rsdp_address = info->rsdp;
  if (info->version >= 1) {
    const auto* entries = reinterpret_cast<const MemoryMapEntry*>(info->memory_map);
    for (uint32_t i = 0; i < info->memory_map_entries; ++i) {
      if (entries[i].type != kRamType) continue;
      const uint64_t end = entries[i].address + entries[i].size_bytes;
      uint64_t& highest = end <= kFourGiB ? low_ram_end : high_ram_end;
      if (end > highest) highest = end;
    }
  }
  if (info->command_line == 0) return;
  // Words, each with its own terminating zero; an empty word ends the list.
  const char* from = reinterpret_cast<const char*>(info->command_line);
  char* to = command_line;
  char* const end = command_line + sizeof(command_line) - 2;
  for (; *from != '\0' && to < end; ++from) {
    if (*from != ' ') {
      *to++ = *from;
    } else if (to != command_line && to[-1] != '\0') {
      *to++ = '\0';
    }
  }
}

const char* StringOption(const char* name, const char* otherwise) {
  const char* value = FindOption(name);
  return value != nullptr ? value : otherwise;
}

uint64_t NumberOption(const char* name, uint64_t otherwise, uint64_t least, uint64_t most) {
  const char* const text = FindOption(name);
  if (text == nullptr) return otherwise;
  const bool hex = text[0] == '0' && text[1] == 'x';
  uint64_t value = 0;
  const char* digit = hex ? text + 2 : text;
  if (*digit == '\0') Fail(name, "=", text, " is not a number");
  for (; *digit != '\0'; ++digit) {
    uint32_t one;
    if (*digit >= '0' && *digit <= '9') {
      one = static_cast<uint32_t>(*digit - '0');
    } else if (hex && *digit >= 'a' && *digit <= 'f') {
      one = static_cast<uint32_t>(*digit - 'a' + 10);
    } else {
      Fail(name, "=", text, " is not a number");
    }
    value = value * (hex ? 16 : 10) + one;
  }
  if (value < least || value > most)
    Fail(name, "=", value, " is out of range (", least, " to ", most, ")");
  return value;
}

uint64_t LowRamEnd() { return low_ram_end; }
uint64_t HighRamEnd() { return high_ram_end; }

uint64_t EcamBase() {
  const TableHeader* mcfg = FindTable("MCFG");
  if (mcfg == nullptr || mcfg->length < kMcfgFirstEntry + 16) return 0;
  return ReadAt<uint64_t>(mcfg, kMcfgFirstEntry);
}

uint32_t AcpiCpuCount() {
  const TableHeader* madt = FindTable("APIC");
  if (madt == nullptr) return 0;
  uint32_t count = 0;
  for (uint64_t at = kMadtFirstEntry; at + 8 <= madt->length;) {
    const uint8_t type = ReadAt<uint8_t>(madt, at);
    const uint8_t length = ReadAt<uint8_t>(madt, at + 1);
    if (length < 2) Fail("MADT entry of ", length, " bytes");
    if (type == kMadtLocalApic && (ReadAt<uint32_t>(madt, at + 4) & kMadtEnabled) != 0) ++count;
    if (type == kMadtLocalX2Apic && (ReadAt<uint32_t>(madt, at + 8) & kMadtEnabled) != 0) ++count;
    at += length;
  }
  return count;
}

}  // namespace bulkhead::guest
