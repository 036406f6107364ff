#include "integration/balloon/guest_ram_use.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bulkhead::integration {

uint64_t GuestRamUse(pid_t vmm) {
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", vmm, "/fd"), error)) {
    char name[PATH_MAX];
    const ssize_t length = readlink(entry.path().c_str(), name, sizeof(name));
    if (length <= 0) continue;
    if (!absl::StrContains(absl::string_view(name, static_cast<size_t>(length)), "guest-ram")) {
      continue;
    }
    struct stat file = {};
    if (stat(entry.path().c_str(), &file) == 0) return static_cast<uint64_t>(file.st_blocks) * 512;
  }
  return 0;
}

}  // namespace bulkhead::integration
