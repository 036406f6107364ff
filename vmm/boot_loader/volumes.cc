#include "vmm/boot_loader/volumes.h"

#include <stdint.h>
#include <string.h>

#include <array>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "vmm/boot_loader/ext_file_system.h"
#include "vmm/boot_loader/fat_file_system.h"
#include "vmm/boot_loader/partition_table.h"

namespace bulkhead::boot_loader {
namespace {

// What else people have on disks, by bytes at a place.
struct Signature {
  const char* name;
  uint64_t offset;
  absl::string_view bytes;
};
constexpr Signature kUnreadable[] = {
    {"XFS", 0, "XFSB"},
    {"btrfs", 0x10040, "_BHRfS_M"},
    {"an encrypted volume (LUKS)", 0, "LUKS"},
    {"LVM", 512 + 24, "LVM2"},
    {"ISO 9660", 0x8001, "CD001"},
    {"swap", 4096 - 10, "SWAPSPACE2"},
    {"a qcow2 image, not a raw one: convert it by \"qemu-img convert -O raw\"", 0, "QFI\xfb"},
};

std::string NameOfUnreadable(const Disk& disk) {
  for (const Signature& each : kUnreadable) {
    std::array<uint8_t, 16> bytes;
    const absl::Span<uint8_t> place(bytes.data(), each.bytes.size());
    if (disk.Read(each.offset, place) &&
        memcmp(place.data(), each.bytes.data(), place.size()) == 0) {
      return each.name;
    }
  }
  return "";
}

// Errors: NotFound (it is neither), DataLoss (it is damaged).
absl::StatusOr<std::unique_ptr<const FileSystem>> OpenFileSystem(const Disk& disk,
                                                                 absl::string_view& kind) {
  kind = "ext2/3/4";
  absl::StatusOr<std::unique_ptr<const FileSystem>> files = OpenExtFileSystem(disk);
  if (!absl::IsNotFound(files.status())) return files;
  kind = "FAT";
  return OpenFatFileSystem(disk);
}

std::string Size(uint64_t bytes) {
  return bytes < (1 << 20) ? absl::StrCat(bytes >> 10, " KiB") : absl::StrCat(bytes >> 20, " MiB");
}

}  // namespace

Volumes OpenVolumes(const Disk& disk, std::vector<std::string>& log) {
  Volumes volumes;
  const PartitionTable table = ReadPartitionTable(disk);
  const bool is_gpt = table.kind == PartitionTable::Kind::kGpt;
  const auto add = [&](std::unique_ptr<Disk> part, uint32_t number, std::string device) {
    absl::string_view kind;
    absl::StatusOr<std::unique_ptr<const FileSystem>> files = OpenFileSystem(*part, kind);
    std::string found = NameOfUnreadable(*part);
    if (files.ok()) {
      found = absl::StrCat(kind, " \"", (*files)->label(), "\", UUID ", (*files)->uuid());
    } else if (!absl::IsNotFound(files.status())) {
      found = std::string(files.status().message());
    } else {
      found = found.empty() ? "no ext2, ext3, ext4 or FAT file system"
                            : absl::StrCat(found, "; only ext2, ext3, ext4 and FAT are read");
    }
    log.push_back(absl::StrCat("(", device, ") of ", Size(part->size_bytes()), ": ", found));
    if (!files.ok()) return;
    volumes.readable.push_back(
        {.partition = number, .device = std::move(device), .files = *std::move(files)});
    volumes.parts.push_back(std::move(part));
  };
  for (const Partition& partition : table.partitions) {
    add(std::make_unique<DiskPart>(disk, partition.start_bytes, partition.size_bytes),
        partition.number, absl::StrCat("hd0,", is_gpt ? "gpt" : "msdos", partition.number));
  }
  // A boot sector's code may look like a partition table.
  if (!is_gpt && volumes.readable.empty()) {
    add(std::make_unique<DiskPart>(disk, 0, disk.size_bytes()), 0, "hd0");
  }
  return volumes;
}

}  // namespace bulkhead::boot_loader
