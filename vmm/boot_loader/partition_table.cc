#include "vmm/boot_loader/partition_table.h"

#include <stddef.h>
#include <string.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <optional>

#include "absl/types/span.h"

namespace bulkhead::boot_loader {
namespace {

constexpr uint64_t kMbrSectorBytes = 512;
constexpr size_t kMaxPartitions = 128;
constexpr uint32_t kMaxGptEntries = 1024;
constexpr uint32_t kMaxGptEntryBytes = 4096;
constexpr uint8_t kProtectiveMbr = 0xee;

template <typename T>
bool ReadObject(const Disk& disk, uint64_t offset, T& out) {
  return disk.Read(offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(&out), sizeof(T)));
}

// UEFI specification 2.10, 5.3.2
struct __attribute__((packed)) GptHeader {
  char signature[8];
  uint32_t revision, header_bytes, header_crc, reserved;
  uint64_t own_lba, other_lba, first_usable_lba, last_usable_lba;
  uint8_t disk_guid[16];
  uint64_t entries_lba;
  uint32_t entry_count, entry_bytes, entries_crc;
};
// 5.3.3
struct __attribute__((packed)) GptEntry {
  std::array<uint8_t, 16> type, id;
  uint64_t first_lba, last_lba;
};

uint32_t Crc(absl::Span<const uint8_t> bytes) {
  return static_cast<uint32_t>(crc32(0, bytes.data(), static_cast<uInt>(bytes.size())));
}

// 5.3.2: a header is valid with its signature, its own place and both checksums.
bool ReadGptHeader(const Disk& disk, uint64_t at, uint64_t sector_bytes, GptHeader& header) {
  // Checksummed are as many bytes as the header says that it has.
  std::array<uint8_t, kMbrSectorBytes> bytes;
  if (!disk.Read(at, absl::MakeSpan(bytes))) return false;
  memcpy(&header, bytes.data(), sizeof(header));
  if (memcmp(header.signature, "EFI PART", 8) != 0 || header.own_lba != at / sector_bytes ||
      header.header_bytes < sizeof(header) || header.header_bytes > bytes.size() ||
      header.entry_bytes < sizeof(GptEntry) || header.entry_bytes > kMaxGptEntryBytes) {
    return false;
  }
  memset(&bytes[offsetof(GptHeader, header_crc)], 0, sizeof(header.header_crc));
  return Crc(absl::MakeSpan(bytes).first(header.header_bytes)) == header.header_crc;
}

std::optional<PartitionTable> ReadGpt(const Disk& disk, uint64_t header_at, uint64_t sector_bytes) {
  GptHeader header;
  if (!ReadGptHeader(disk, header_at, sector_bytes, header)) return std::nullopt;
  const uint64_t sectors = disk.size_bytes() / sector_bytes;
  if (header.entries_lba >= sectors || header.entry_count > kMaxGptEntries) return std::nullopt;
  std::vector<uint8_t> entries(size_t{header.entry_count} * header.entry_bytes);
  if (!disk.Read(header.entries_lba * sector_bytes, absl::MakeSpan(entries)) ||
      Crc(entries) != header.entries_crc) {
    return std::nullopt;
  }
  PartitionTable table = {.kind = PartitionTable::Kind::kGpt, .partitions = {}};
  for (uint32_t i = 0; i < std::min<uint32_t>(header.entry_count, kMaxPartitions); ++i) {
    GptEntry entry;
    memcpy(&entry, &entries[size_t{i} * header.entry_bytes], sizeof(entry));
    if (entry.type == std::array<uint8_t, 16>{} || entry.last_lba < entry.first_lba ||
        entry.last_lba >= sectors) {
      continue;
    }
    table.partitions.push_back(
        {.number = i + 1,
         .start_bytes = entry.first_lba * sector_bytes,
         .size_bytes = (entry.last_lba - entry.first_lba + 1) * sector_bytes});
  }
  return table;
}

struct __attribute__((packed)) MbrEntry {
  uint8_t boot_flag, first_chs[3], type, last_chs[3];
  uint32_t first_sector, sectors;
};
struct __attribute__((packed)) Mbr {
  uint8_t code[446];
  MbrEntry entries[4];
  uint8_t signature[2];
};

bool ReadMbr(const Disk& disk, uint64_t sector, Mbr& mbr) {
  if (!ReadObject(disk, sector * kMbrSectorBytes, mbr) || mbr.signature[0] != 0x55 ||
      mbr.signature[1] != 0xaa) {
    return false;
  }
  // The boot sector of a file system has the signature, too.
  return std::all_of(std::begin(mbr.entries), std::end(mbr.entries),
                     [](const MbrEntry& entry) { return (entry.boot_flag & 0x7f) == 0; });
}

bool IsExtended(const MbrEntry& entry) {
  return entry.type == 0x05 || entry.type == 0x0f || entry.type == 0x85;
}

// `base`: what the entry's first sector counts from.
void AddMbrPartition(const Disk& disk, const MbrEntry& entry, uint64_t base, uint32_t number,
                     PartitionTable& table) {
  const uint64_t sectors = disk.size_bytes() / kMbrSectorBytes;
  const uint64_t first = base + entry.first_sector;
  if (entry.type == 0 || entry.sectors == 0 || entry.first_sector == 0 || first > sectors ||
      entry.sectors > sectors - first) {
    return;
  }
  table.partitions.push_back({.number = number,
                              .start_bytes = first * kMbrSectorBytes,
                              .size_bytes = entry.sectors * kMbrSectorBytes});
}

// Logical partitions are a list: each sector has one, and where the next sector is.
void AddLogicalPartitions(const Disk& disk, uint64_t extended, PartitionTable& table) {
  uint64_t sector = extended;
  for (uint32_t number = 5; table.partitions.size() < kMaxPartitions && number < 128; ++number) {
    Mbr mbr;
    if (!ReadMbr(disk, sector, mbr)) return;
    AddMbrPartition(disk, mbr.entries[0], sector, number, table);
    if (!IsExtended(mbr.entries[1]) || mbr.entries[1].first_sector == 0) return;
    sector = extended + mbr.entries[1].first_sector;
  }
}

}  // namespace

PartitionTable ReadPartitionTable(const Disk& disk) {
  PartitionTable table;
  Mbr mbr;
  if (!ReadMbr(disk, 0, mbr)) return table;
  // A GPT counts with its protective MBR only (5.2.3), as for Linux and GRUB: without, it is left
  // of what the disk was before.
  const bool is_gpt =
      std::any_of(std::begin(mbr.entries), std::end(mbr.entries),
                  [](const MbrEntry& entry) { return entry.type == kProtectiveMbr; });
  for (const uint64_t sector_bytes : {512, 4096}) {
    if (!is_gpt || disk.size_bytes() < 2 * sector_bytes) continue;
    const uint64_t last = (disk.size_bytes() / sector_bytes - 1) * sector_bytes;
    for (const uint64_t header_at : {sector_bytes, last}) {
      if (auto gpt = ReadGpt(disk, header_at, sector_bytes)) return *std::move(gpt);
    }
  }
  for (uint32_t i = 0; i < 4; ++i) {
    const MbrEntry& entry = mbr.entries[i];
    if (entry.type == kProtectiveMbr) continue;
    if (IsExtended(entry)) {
      AddLogicalPartitions(disk, entry.first_sector, table);
    } else {
      AddMbrPartition(disk, entry, 0, i + 1, table);
    }
  }
  if (!table.partitions.empty()) table.kind = PartitionTable::Kind::kMbr;
  return table;
}

}  // namespace bulkhead::boot_loader
