#include "vmm/config/console_log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "base/errno_status.h"

namespace bulkhead::vmm {

int OpenConsoleLog(const ConsoleLogFile& file) {
  // Not blocking: it may be a FIFO.
  UniqueFd fd(openat(file.folder->get(), file.name.c_str(),
                     O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  struct stat info = {};
  if (!fd.ok() || fstat(fd.get(), &info) != 0) return -1;
  if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || info.st_nlink != 1) {
    errno = EPERM;
    return -1;
  }
  return fd.release();
}

absl::StatusOr<ConsoleLogFile> FindConsoleLog(const std::string& path, bool make) {
  const std::filesystem::path place = std::filesystem::path(path).lexically_normal();
  const std::string folder = place.parent_path().string();
  ConsoleLogFile file;
  file.path = path;
  file.name = place.filename().string();
  if (file.name.empty() || file.name == "." || file.name == "..") {
    return absl::InvalidArgumentError("is a folder; give a file");
  }
  UniqueFd fd(open(folder.empty() ? "." : folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, "its folder");
  file.folder = std::make_shared<const UniqueFd>(std::move(fd));
  if (faccessat(file.folder->get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    return ErrnoToStatus(errno, "its folder, where files are renamed");
  }
  if (!make) return file;
  const UniqueFd opened(OpenConsoleLog(file));
  if (!opened.ok() && errno == EPERM) {
    return absl::FailedPreconditionError("is not a regular file of the vmm's user");
  }
  if (!opened.ok()) return ErrnoToStatus(errno, "cannot be made");
  return file;
}

}  // namespace bulkhead::vmm
