#include "vmm/boot_loader/fat_folder.h"

#include <stddef.h>
#include <string.h>

#include <utility>

#include "absl/strings/ascii.h"

namespace bulkhead::boot_loader {
namespace {

// Microsoft's FAT32 File System Specification 1.03, "FAT Directory Structure".
struct __attribute__((packed)) RawEntry {
  uint8_t name[11];
  uint8_t attributes;
  uint8_t lower_case;  // of Windows NT, and of Linux
  uint8_t times[7];
  uint16_t cluster_high;
  uint8_t more_times[4];
  uint16_t cluster_low;
  uint32_t bytes;
};
static_assert(sizeof(RawEntry) == 32);
// The same, "Long Directory Entries".
struct __attribute__((packed)) RawLongEntry {
  uint8_t order;
  uint16_t name1[5];
  uint8_t attributes, type, checksum;
  uint16_t name2[6];
  uint16_t zero;
  uint16_t name3[2];
};
static_assert(sizeof(RawLongEntry) == 32);

constexpr uint8_t kVolumeLabel = 0x08;
constexpr uint8_t kFolder = 0x10;
constexpr uint8_t kLongName = 0x0f;
constexpr uint8_t kLongNameMask = 0x3f;
constexpr uint8_t kLowerBase = 0x08;
constexpr uint8_t kLowerExtension = 0x10;
constexpr uint8_t kEnd = 0x00;
constexpr uint8_t kDeleted = 0xe5;
constexpr uint8_t kLastPart = 0x40;
constexpr size_t kPartUnits = 13;
constexpr size_t kMaxParts = 20;

void AppendUtf8(std::string& text, uint16_t unit) {
  const auto add = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (unit < 0x80) {
    add(unit);
  } else if (unit < 0x800) {
    add(0xc0 | unit >> 6);
    add(0x80 | (unit & 0x3f));
  } else {
    if (unit >= 0xd800 && unit < 0xe000) unit = 0xfffd;  // a half of a character
    add(0xe0 | unit >> 12);
    add(0x80 | (unit >> 6 & 0x3f));
    add(0x80 | (unit & 0x3f));
  }
}

uint8_t Checksum(const RawEntry& entry) {
  uint8_t sum = 0;
  for (const uint8_t byte : entry.name) {
    sum = static_cast<uint8_t>(static_cast<uint8_t>(sum << 7 | sum >> 1) + byte);
  }
  return sum;
}

// The entries before a file's own that have its long name, the last part first.
class LongName {
 public:
  void Add(const RawLongEntry& entry) {
    size_t part = entry.order & ~kLastPart;
    if ((entry.order & kLastPart) != 0) {
      units_.assign(part * kPartUnits, 0);
      next_part_ = part <= kMaxParts ? part : 0;
      checksum_ = entry.checksum;
    }
    if (part == 0 || part != next_part_ || entry.checksum != checksum_) {
      Clear();
      return;
    }
    --part;
    memcpy(&units_[part * kPartUnits], entry.name1, sizeof(entry.name1));
    memcpy(&units_[part * kPartUnits + 5], entry.name2, sizeof(entry.name2));
    memcpy(&units_[part * kPartUnits + 11], entry.name3, sizeof(entry.name3));
    next_part_ = part;
  }
  // "": the entry has none.
  std::string Of(const RawEntry& entry) const {
    std::string name;
    if (next_part_ != 0 || checksum_ != Checksum(entry)) return name;
    for (const uint16_t unit : units_) {
      if (unit == 0) break;
      AppendUtf8(name, unit);
    }
    return name;
  }
  void Clear() {
    units_.clear();
    next_part_ = 0;
  }

 private:
  std::vector<uint16_t> units_;
  size_t next_part_ = 0;  // the number of the part that was added last, less one
  uint8_t checksum_ = 0;
};

std::string ShortName(const RawEntry& entry) {
  std::string base(reinterpret_cast<const char*>(entry.name), 8);
  std::string extension(reinterpret_cast<const char*>(entry.name) + 8, 3);
  if (base[0] == 0x05) base[0] = static_cast<char>(kDeleted);
  absl::StripTrailingAsciiWhitespace(&base);
  absl::StripTrailingAsciiWhitespace(&extension);
  if ((entry.lower_case & kLowerBase) != 0) absl::AsciiStrToLower(&base);
  if ((entry.lower_case & kLowerExtension) != 0) absl::AsciiStrToLower(&extension);
  return extension.empty() ? base : base + "." + extension;
}

}  // namespace

std::vector<FatEntry> ParseFatFolder(absl::Span<const uint8_t> folder, size_t max_entries) {
  std::vector<FatEntry> entries;
  LongName long_name;
  for (; folder.size() >= sizeof(RawEntry) && entries.size() < max_entries;
       folder.remove_prefix(sizeof(RawEntry))) {
    RawEntry raw;
    memcpy(&raw, folder.data(), sizeof(raw));
    if (raw.name[0] == kEnd) break;
    if (raw.name[0] == kDeleted) {
      long_name.Clear();
      continue;
    }
    if ((raw.attributes & kLongNameMask) == kLongName) {
      RawLongEntry part;
      memcpy(&part, folder.data(), sizeof(part));
      long_name.Add(part);
      continue;
    }
    FatEntry entry;
    entry.name = long_name.Of(raw);
    long_name.Clear();
    if ((raw.attributes & kVolumeLabel) != 0) continue;
    if (entry.name.empty()) entry.name = ShortName(raw);
    if (entry.name == "." || entry.name == "..") continue;
    entry.is_folder = (raw.attributes & kFolder) != 0;
    entry.cluster = static_cast<uint32_t>(raw.cluster_high) << 16 | raw.cluster_low;
    entry.bytes = raw.bytes;
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace bulkhead::boot_loader
