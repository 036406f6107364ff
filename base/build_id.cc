#include "base/build_id.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <string.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace bulkhead {
namespace {

constexpr size_t Aligned(size_t size) { return (size + 3) & ~size_t{3}; }

// Of the notes in one segment.
std::string FindIn(absl::string_view notes) {
  Elf64_Nhdr header;
  while (notes.size() >= sizeof(header)) {
    memcpy(&header, notes.data(), sizeof(header));
    notes.remove_prefix(sizeof(header));
    const size_t name_size = Aligned(header.n_namesz);
    const size_t size = name_size + Aligned(header.n_descsz);
    if (size > notes.size()) break;
    constexpr absl::string_view kGnu("GNU\0", 4);
    if (header.n_type == NT_GNU_BUILD_ID && notes.substr(0, header.n_namesz) == kGnu) {
      return absl::BytesToHexString(notes.substr(name_size, header.n_descsz));
    }
    notes.remove_prefix(size);
  }
  return "";
}

int Visit(dl_phdr_info* info, size_t /*size*/, void* result) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const auto* const begin = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    std::string id = FindIn(absl::string_view(begin, segment.p_memsz));
    if (id.empty()) continue;
    *static_cast<std::string*>(result) = std::move(id);
    break;
  }
  return 1;  // the first object is the program; no further ones
}

}  // namespace

std::string BuildId() {
  std::string id;
  dl_iterate_phdr(Visit, &id);
  return id;
}

}  // namespace bulkhead
