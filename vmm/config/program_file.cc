#include "vmm/config/program_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errno_status.h"

namespace bulkhead::vmm {
namespace {

// A script must be readable, as its interpreter reads it. A program need not be.
bool IsScript(const std::string& by_descriptor) {
  const UniqueFd file(open(by_descriptor.c_str(), O_RDONLY | O_CLOEXEC));
  char start[2];
  return file.ok() && pread(file.get(), start, sizeof(start), 0) == sizeof(start) &&
         start[0] == '#' && start[1] == '!';
}

}  // namespace

absl::StatusOr<ProgramFile> ProgramFile::Open(const std::string& path) {
  // O_PATH: neither waits for a pipe's other end nor needs permission to read.
  UniqueFd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, path);
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  const std::string by_descriptor = absl::StrCat("/proc/self/fd/", fd.get());
  if (access(by_descriptor.c_str(), X_OK) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("executing ", path));
  }
  ProgramFile file;
  file.path_ = path;
  file.is_script_ = IsScript(by_descriptor);
  file.fd_ = std::make_shared<const UniqueFd>(std::move(fd));
  return file;
}

}  // namespace bulkhead::vmm
