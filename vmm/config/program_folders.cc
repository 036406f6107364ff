#include "vmm/config/program_folders.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"

namespace bulkhead::vmm {
namespace {

// The present path of an open file, without symbolic links. Only openat2() below makes it sure.
std::string PathOf(const UniqueFd& fd) {
  char path[PATH_MAX];
  const ssize_t length =
      readlink(absl::StrCat("/proc/self/fd/", fd.get()).c_str(), path, sizeof(path));
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "";
}

// The rest of `path` below `folder`. Both are as of PathOf().
std::optional<std::string> Below(const std::string& folder, absl::string_view path) {
  const bool is_root = folder == "/";
  if (folder.empty() || (!is_root && !absl::ConsumePrefix(&path, folder))) return std::nullopt;
  if (!absl::ConsumePrefix(&path, "/") || path.empty()) return std::nullopt;
  return std::string(path);
}

}  // namespace

absl::Status ProgramFolders::Add(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, "opening the folder");
  folders_.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ProgramFolders::OpenFile(const std::string& path) const {
  const UniqueFd given(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!given.ok()) return ErrnoToStatus(errno, path);
  const std::string place = PathOf(given);
  std::vector<std::string> allowed;
  for (const UniqueFd& folder : folders_) {
    allowed.push_back(PathOf(folder));
    const std::optional<std::string> rest = Below(allowed.back(), place);
    if (!rest.has_value()) continue;
    // Names may have changed since: the kernel makes sure that this one stays in the folder.
    open_how how = {};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    UniqueFd fd(
        static_cast<int>(syscall(SYS_openat2, folder.get(), rest->c_str(), &how, sizeof(how))));
    if (fd.ok()) return fd;
    if (errno == ENOSYS) {
      return absl::UnimplementedError(
          absl::StrCat(path, ": another binary needs openat2(2), of Linux 5.6 or later"));
    }
    return ErrnoToStatus(errno, path);
  }
  return absl::PermissionDeniedError(
      absl::StrCat(path, " is not in a folder from which this VM takes binaries (",
                   allowed.empty() ? "there is none" : absl::StrJoin(allowed, ", "),
                   "): its configuration can allow further ones in binary_dirs"));
}

}  // namespace bulkhead::vmm
