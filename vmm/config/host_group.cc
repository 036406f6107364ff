#include "vmm/config/host_group.h"

#include <grp.h>
#include <stddef.h>
#include <stdio.h>

#include <memory>
#include <vector>

#include "absl/strings/numbers.h"

namespace bulkhead::vmm {
namespace {

constexpr gid_t kNoGroup = static_cast<gid_t>(-1);
constexpr size_t kEntryBytes = 1 << 20;  // a group may have many members

struct CloseFile {
  void operator()(FILE* file) const { fclose(file); }
};

}  // namespace

std::optional<gid_t> GroupNumber(const std::string& name) {
  gid_t number = 0;
  if (absl::SimpleAtoi(name, &number)) {
    return number == kNoGroup ? std::nullopt : std::make_optional(number);
  }
  const std::unique_ptr<FILE, CloseFile> groups(fopen("/etc/group", "re"));
  if (groups == nullptr) return std::nullopt;
  std::vector<char> buffer(kEntryBytes);
  group entry;
  group* found = nullptr;
  while (fgetgrent_r(groups.get(), &entry, buffer.data(), buffer.size(), &found) == 0) {
    if (name == entry.gr_name) return entry.gr_gid;
  }
  return std::nullopt;
}

}  // namespace bulkhead::vmm
