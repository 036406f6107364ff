#include "vmm/boot_loader/fat_file_system.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/numeric/bits.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "base/status_macros.h"
#include "vmm/boot_loader/fat_folder.h"

namespace bulkhead::boot_loader {
namespace {

constexpr size_t kMaxNames = 1000;
constexpr size_t kMaxFolderBytes = 65536 * 32;
constexpr size_t kMaxDepth = 64;
constexpr uint64_t kPieceBytes = 1 << 20;

// Microsoft's FAT32 File System Specification 1.03, "Boot Sector and BPB".
struct __attribute__((packed)) VolumeId {
  uint8_t drive, reserved, signature;
  uint32_t serial;
  char label[11];
  char type[8];
};
struct __attribute__((packed)) Fat32Fields {
  uint32_t fat_sectors;
  uint16_t flags, version;
  uint32_t root_cluster;
  uint8_t more[16];
  VolumeId id;
};
struct __attribute__((packed)) BootSector {
  uint8_t jump[3];
  char oem[8];
  uint16_t sector_bytes;
  uint8_t cluster_sectors;
  uint16_t reserved_sectors;
  uint8_t fats;
  uint16_t root_entries, sectors16;
  uint8_t media;
  uint16_t fat_sectors16;
  uint16_t geometry[2];
  uint32_t hidden_sectors, sectors32;
  union __attribute__((packed)) {
    VolumeId id;
    Fat32Fields fat32;
  };
  uint8_t code[420];
  uint16_t signature;
};
static_assert(sizeof(BootSector) == 512);

constexpr uint8_t kHasId = 0x29;
constexpr uint16_t kOneFatIsUsed = 0x80;
constexpr uint32_t kMaxFat12Clusters = 4084;

bool LooksLikeFat(const BootSector& boot) {
  return boot.signature == 0xaa55 && (boot.jump[0] == 0xeb || boot.jump[0] == 0xe9) &&
         absl::has_single_bit(uint32_t{boot.sector_bytes}) && boot.sector_bytes >= 512 &&
         boot.sector_bytes <= 4096 && absl::has_single_bit(uint32_t{boot.cluster_sectors}) &&
         boot.reserved_sectors != 0 && boot.fats != 0 && boot.fats <= 4 &&
         (boot.media == 0xf0 || boot.media >= 0xf8);
}

// Where things are. In bytes, from the disk's beginning.
struct Layout {
  uint32_t fat_bits = 0;  // of an entry
  uint64_t fat = 0, fat_bytes = 0;
  uint64_t root = 0, root_bytes = 0;  // of FAT12 and FAT16
  uint32_t root_cluster = 0;          // of FAT32
  uint64_t data = 0;
  uint32_t cluster_bytes = 0;
  uint32_t clusters = 0;  // from number 2 on
};

absl::StatusOr<Layout> LayoutOf(const BootSector& boot) {
  const uint64_t sector = boot.sector_bytes;
  const bool is_fat32 = boot.fat_sectors16 == 0;
  Layout layout;
  layout.fat_bytes = sector * (is_fat32 ? boot.fat32.fat_sectors : boot.fat_sectors16);
  layout.fat = sector * boot.reserved_sectors;
  layout.root = layout.fat + layout.fat_bytes * boot.fats;
  layout.root_bytes = uint64_t{boot.root_entries} * 32;
  layout.data = layout.root + (layout.root_bytes + sector - 1) / sector * sector;
  layout.cluster_bytes = boot.sector_bytes * boot.cluster_sectors;
  const uint64_t end = sector * (boot.sectors16 != 0 ? boot.sectors16 : boot.sectors32);
  if (layout.fat_bytes == 0 || layout.data >= end) {
    return absl::DataLossError("a damaged FAT file system: its parts do not fit");
  }
  layout.clusters = static_cast<uint32_t>((end - layout.data) / layout.cluster_bytes);
  layout.fat_bits = is_fat32 ? 32 : layout.clusters > kMaxFat12Clusters ? 16 : 12;
  if (is_fat32) {
    layout.root_cluster = boot.fat32.root_cluster;
    const uint32_t used = boot.fat32.flags & 0xf;
    if ((boot.fat32.flags & kOneFatIsUsed) != 0 && used < boot.fats) {
      layout.fat += layout.fat_bytes * used;
    }
  }
  return layout;
}

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("cannot be read: ", what));
}

class FatFileSystem final : public FileSystem {
 public:
  FatFileSystem(const Disk& disk, const Layout& layout, const VolumeId& id)
      : disk_(disk), layout_(layout), id_(id) {}

  // As Linux's tools and GRUB write it.
  std::string uuid() const override {
    if (id_.signature != kHasId) return "";
    char text[10];
    snprintf(text, sizeof(text), "%04X-%04X", id_.serial >> 16, id_.serial & 0xffff);
    return text;
  }
  std::string label() const override {
    if (id_.signature != kHasId) return "";
    const absl::string_view label(id_.label, sizeof(id_.label));
    return std::string(absl::StripTrailingAsciiWhitespace(label));
  }

  absl::StatusOr<uint64_t> FileSize(const std::string& path) const override {
    ASSIGN_OR_RETURN(const FatEntry entry, Find(path));
    if (entry.is_folder) return absl::NotFoundError("is not a regular file");
    return entry.bytes;
  }
  absl::Status CopyPart(const std::string& path, const FilePart& part, Sink sink) const override;
  absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) const override;

 private:
  bool IsCluster(uint32_t number) const { return number >= 2 && number - 2 < layout_.clusters; }
  uint64_t PlaceOf(uint32_t cluster) const {
    return layout_.data + uint64_t{cluster - 2} * layout_.cluster_bytes;
  }
  // 0: there is none.
  uint32_t Next(uint32_t cluster) const;
  // Calls `use` with the place and the size of one piece of the chain after the other, `bytes` in
  // all. Errors: DataLoss (the chain is shorter), and those of `use`.
  absl::Status ForEachPiece(
      uint32_t cluster, uint64_t bytes,
      absl::FunctionRef<absl::Status(uint64_t place, uint64_t bytes)> use) const;
  absl::StatusOr<std::vector<FatEntry>> ReadFolder(const FatEntry& folder) const;
  absl::StatusOr<FatEntry> Find(absl::string_view path) const;

  const Disk& disk_;
  const Layout layout_;
  const VolumeId id_;
};

uint32_t FatFileSystem::Next(uint32_t cluster) const {
  const uint64_t offset = uint64_t{cluster} * layout_.fat_bits / 8;
  uint32_t entry = 0;
  const size_t size = layout_.fat_bits == 32 ? 4 : 2;
  if (offset + size > layout_.fat_bytes ||
      !disk_.Read(layout_.fat + offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(&entry), size))) {
    return 0;
  }
  if (layout_.fat_bits == 32) entry &= 0x0fffffff;
  if (layout_.fat_bits == 12) entry = cluster % 2 != 0 ? entry >> 4 : entry & 0xfff;
  return IsCluster(entry) ? entry : 0;
}

absl::Status FatFileSystem::ForEachPiece(
    uint32_t cluster, uint64_t bytes,
    absl::FunctionRef<absl::Status(uint64_t place, uint64_t bytes)> use) const {
  // So a chain that is a loop ends, too.
  if (bytes > uint64_t{layout_.clusters} * layout_.cluster_bytes) {
    return Damaged("it is larger than its file system");
  }
  while (bytes > 0) {
    if (!IsCluster(cluster)) return Damaged("its chain of clusters ends early");
    const uint32_t first = cluster;
    uint64_t piece = layout_.cluster_bytes;
    uint32_t next = Next(cluster);
    for (; next == cluster + 1 && piece < bytes && piece < kPieceBytes; next = Next(cluster)) {
      cluster = next;
      piece += layout_.cluster_bytes;
    }
    piece = std::min(piece, bytes);
    RETURN_IF_ERROR(use(PlaceOf(first), piece));
    bytes -= piece;
    cluster = next;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<FatEntry>> FatFileSystem::ReadFolder(const FatEntry& folder) const {
  std::vector<uint8_t> bytes;
  const auto append = [&](uint64_t place, uint64_t size) {
    bytes.resize(bytes.size() + size);
    const bool is_read = disk_.Read(place, absl::MakeSpan(bytes).last(size));
    return is_read ? absl::OkStatus() : Damaged("its folder");
  };
  if (folder.cluster == 0) {  // only FAT12's and FAT16's root has none
    RETURN_IF_ERROR(append(layout_.root, layout_.root_bytes));
    return ParseFatFolder(bytes, kMaxFolderBytes / 32);
  }
  // A folder's size is that of its chain.
  uint32_t cluster = folder.cluster;
  for (; IsCluster(cluster) && bytes.size() < kMaxFolderBytes; cluster = Next(cluster)) {
    RETURN_IF_ERROR(append(PlaceOf(cluster), layout_.cluster_bytes));
  }
  return ParseFatFolder(bytes, kMaxFolderBytes / 32);
}

absl::StatusOr<FatEntry> FatFileSystem::Find(absl::string_view path) const {
  FatEntry found;
  found.is_folder = true;
  found.cluster = layout_.root_cluster;
  size_t depth = 0;
  for (const absl::string_view name : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (name == ".") continue;
    if (!found.is_folder || ++depth > kMaxDepth) return absl::NotFoundError("does not exist");
    ASSIGN_OR_RETURN(std::vector<FatEntry> entries, ReadFolder(found));
    const auto entry = std::find_if(entries.begin(), entries.end(), [name](const FatEntry& each) {
      return absl::EqualsIgnoreCase(each.name, name);
    });
    if (entry == entries.end()) return absl::NotFoundError("does not exist");
    found = std::move(*entry);
    // An empty file has no cluster, and a folder always one: 0 would be the root.
    if (found.is_folder && !IsCluster(found.cluster)) return Damaged("its folder");
  }
  return found;
}

absl::Status FatFileSystem::CopyPart(const std::string& path, const FilePart& part,
                                     Sink sink) const {
  ASSIGN_OR_RETURN(const FatEntry entry, Find(path));
  if (entry.is_folder) return absl::NotFoundError("is not a regular file");
  if (part.offset >= entry.bytes) return absl::OkStatus();
  uint64_t to_skip = part.offset;
  std::vector<uint8_t> piece;
  const uint64_t end = part.offset + std::min<uint64_t>(part.bytes, entry.bytes - part.offset);
  return ForEachPiece(entry.cluster, end, [&](uint64_t place, uint64_t bytes) {
    const uint64_t skipped = std::min(to_skip, bytes);
    to_skip -= skipped;
    if (skipped == bytes) return absl::OkStatus();
    piece.resize(bytes - skipped);
    if (!disk_.Read(place + skipped, absl::MakeSpan(piece))) return Damaged("its contents");
    return sink(piece);
  });
}

absl::StatusOr<std::vector<std::string>> FatFileSystem::ListFolder(const std::string& path) const {
  ASSIGN_OR_RETURN(const FatEntry folder, Find(path));
  if (!folder.is_folder) return absl::NotFoundError("is not a folder");
  ASSIGN_OR_RETURN(std::vector<FatEntry> entries, ReadFolder(folder));
  std::vector<std::string> names;
  for (FatEntry& entry : entries) {
    if (names.size() == kMaxNames) break;
    names.push_back(std::move(entry.name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const FileSystem>> OpenFatFileSystem(const Disk& disk) {
  BootSector boot;
  if (!disk.Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(&boot), sizeof(boot))) ||
      !LooksLikeFat(boot)) {
    return absl::NotFoundError("no FAT file system");
  }
  ASSIGN_OR_RETURN(const Layout layout, LayoutOf(boot));
  return std::make_unique<const FatFileSystem>(disk, layout,
                                               layout.fat_bits == 32 ? boot.fat32.id : boot.id);
}

}  // namespace bulkhead::boot_loader
