#include "vmm/sandbox/policy_note.h"

#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "vmm/sandbox/policy_text.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::string_view kName("Bulkhead", sizeof("Bulkhead"));  // with its NUL
constexpr uint32_t kType = 1;
constexpr uint16_t kMaxProgramHeaders = 64;
constexpr uint64_t kMaxNotesBytes = 64 * 1024;  // of one segment

// Up to `size` bytes; fewer at the end of the file.
absl::StatusOr<std::string> ReadAt(int file, uint64_t offset, uint64_t size) {
  std::string bytes(size, '\0');
  size_t filled = 0;
  while (filled < size && offset + filled <= INT64_MAX) {
    const ssize_t n =
        pread(file, bytes.data() + filled, size - filled, static_cast<off_t>(offset + filled));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, "reading the program's sandbox policy");
    if (n == 0) break;
    filled += static_cast<size_t>(n);
  }
  bytes.resize(filled);
  return bytes;
}

// Takes `size` bytes and the padding up to four behind them. None: there are not so many.
std::optional<absl::string_view> TakePadded(absl::string_view& bytes, uint64_t size) {
  if (size > bytes.size()) return std::nullopt;
  const absl::string_view taken = bytes.substr(0, size);
  bytes.remove_prefix(std::min<uint64_t>((size + 3) & ~uint64_t{3}, bytes.size()));
  return taken;
}

// Puts the policy among the notes of one segment into `policy`.
absl::Status FindPolicy(absl::string_view notes, std::optional<std::string>& policy) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    memcpy(&header, notes.data(), sizeof(header));
    notes.remove_prefix(sizeof(header));
    const auto name = TakePadded(notes, header.n_namesz);
    const auto text = name.has_value() ? TakePadded(notes, header.n_descsz) : std::nullopt;
    const bool is_policy = header.n_type == kType && name == kName;
    if (!text.has_value()) {
      if (!is_policy) return absl::OkStatus();
      return absl::InvalidArgumentError("the program's sandbox policy is cut short");
    }
    if (!is_policy) continue;
    if (policy.has_value()) {
      return absl::InvalidArgumentError("the program has more than one sandbox policy");
    }
    if (text->size() > kMaxPolicyBytes) {
      return absl::InvalidArgumentError(absl::StrCat("the program's sandbox policy has ",
                                                     text->size(), " bytes; accepted are up to ",
                                                     kMaxPolicyBytes));
    }
    policy.emplace(*text);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadPolicyNote(int binary) {
  ASSIGN_OR_RETURN(const std::string start, ReadAt(binary, 0, sizeof(Elf64_Ehdr)));
  Elf64_Ehdr elf;
  if (start.size() < sizeof(elf)) return std::string();
  memcpy(&elf, start.data(), sizeof(elf));
  if (memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_ident[EI_CLASS] != ELFCLASS64 ||
      elf.e_ident[EI_DATA] != ELFDATA2LSB || elf.e_phentsize != sizeof(Elf64_Phdr)) {
    return std::string();
  }
  const uint64_t count = std::min(elf.e_phnum, kMaxProgramHeaders);
  ASSIGN_OR_RETURN(const std::string headers,
                   ReadAt(binary, elf.e_phoff, count * sizeof(Elf64_Phdr)));
  std::optional<std::string> policy;
  for (size_t i = 0; (i + 1) * sizeof(Elf64_Phdr) <= headers.size(); ++i) {
    Elf64_Phdr segment;
    memcpy(&segment, headers.data() + i * sizeof(segment), sizeof(segment));
    if (segment.p_type != PT_NOTE) continue;
    ASSIGN_OR_RETURN(
        const std::string notes,
        ReadAt(binary, segment.p_offset, std::min<uint64_t>(segment.p_filesz, kMaxNotesBytes)));
    RETURN_IF_ERROR(FindPolicy(notes, policy));
  }
  return policy.value_or("");
}

}  // namespace bulkhead::vmm
