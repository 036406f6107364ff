#include "vmm/boot_loader/unified_kernel.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace bulkhead::boot_loader {
namespace {

constexpr uint64_t kMaxHeaderBytes = 16 << 10;
constexpr uint64_t kMaxTextBytes = 64 << 10;
constexpr size_t kMaxTitleBytes = 256;
constexpr size_t kPeOffsetAt = 0x3c;
constexpr uint16_t kX64 = 0x8664;

// PE format, "COFF File Header", behind the signature
struct __attribute__((packed)) FileHeader {
  char signature[4];
  uint16_t machine, sections;
  uint32_t time, symbols, symbol_count;
  uint16_t optional_header_bytes, flags;
};
// "Section Table"
struct __attribute__((packed)) SectionHeader {
  char name[8];
  uint32_t virtual_bytes, address, raw_bytes, raw_offset;
  uint8_t more[16];
};

// False: the text ends before.
template <typename T>
bool Get(absl::string_view bytes, uint64_t offset, T& out) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return false;
  memcpy(&out, bytes.data() + offset, sizeof(T));
  return true;
}

// By their names; of several of a name, the first.
absl::StatusOr<std::map<std::string, FilePart, std::less<>>> ReadSections(const FileSystem& files,
                                                                          const std::string& path) {
  const absl::Status none = absl::NotFoundError("is no PE file for x86-64");
  ASSIGN_OR_RETURN(const uint64_t file_bytes, files.FileSize(path));
  ASSIGN_OR_RETURN(const std::string bytes,
                   files.ReadFile(path, kMaxHeaderBytes, {.bytes = kMaxHeaderBytes}));
  uint32_t at = 0;
  FileHeader header;
  if (bytes.substr(0, 2) != "MZ" || !Get(bytes, kPeOffsetAt, at) || !Get(bytes, at, header) ||
      memcmp(header.signature, "PE\0\0", 4) != 0 || header.machine != kX64) {
    return none;
  }
  std::map<std::string, FilePart, std::less<>> sections;
  uint64_t next = uint64_t{at} + sizeof(header) + header.optional_header_bytes;
  for (uint32_t i = 0; i < header.sections; ++i, next += sizeof(SectionHeader)) {
    SectionHeader section;
    if (!Get(bytes, next, section)) return none;
    const std::string name(section.name, strnlen(section.name, sizeof(section.name)));
    if (name == ".profile") break;  // from here on the other profiles
    if (section.raw_offset > file_bytes || section.raw_bytes > file_bytes - section.raw_offset) {
      return absl::NotFoundError(absl::StrCat("ends before its section ", name));
    }
    // On the disk it is padded.
    sections.try_emplace(name,
                         FilePart{.offset = section.raw_offset,
                                  .bytes = std::min(section.raw_bytes, section.virtual_bytes)});
  }
  return sections;
}

std::string PrettyName(absl::string_view os_release) {
  for (absl::string_view line : absl::StrSplit(os_release, '\n')) {
    if (!absl::ConsumePrefix(&line, "PRETTY_NAME=")) continue;
    if (line.size() >= 2 && (line[0] == '"' || line[0] == '\'') && line.back() == line[0]) {
      line = line.substr(1, line.size() - 2);
    }
    return std::string(line.substr(0, kMaxTitleBytes));
  }
  return "";
}

}  // namespace

absl::StatusOr<BootPlan> ReadUnifiedKernel(const FilePlace& image) {
  const FileSystem& files = *image.volume->files;
  ASSIGN_OR_RETURN(const auto sections, ReadSections(files, image.path));
  const auto text_of = [&](absl::string_view name) -> absl::StatusOr<std::string> {
    const auto section = sections.find(name);
    if (section == sections.end()) return std::string();
    ASSIGN_OR_RETURN(std::string text, files.ReadFile(image.path, kMaxTextBytes, section->second));
    return text.substr(0, text.find('\0'));
  };
  const auto linux = sections.find(".linux");
  if (linux == sections.end() || linux->second.bytes == 0) {
    return absl::NotFoundError("has no section .linux");
  }
  BootPlan plan;
  plan.kernel = {image.volume, image.path, linux->second};
  if (const auto initrd = sections.find(".initrd"); initrd != sections.end()) {
    plan.initrds.push_back({image.volume, image.path, initrd->second});
  }
  ASSIGN_OR_RETURN(plan.command_line, text_of(".cmdline"));
  absl::StripAsciiWhitespace(&plan.command_line);
  ASSIGN_OR_RETURN(const std::string os_release, text_of(".osrel"));
  plan.title = PrettyName(os_release);
  if (plan.title.empty()) plan.title = image.path.substr(image.path.rfind('/') + 1);
  return plan;
}

}  // namespace bulkhead::boot_loader
