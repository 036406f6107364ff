#include "vmm/control/path_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(5);
constexpr absl::Duration kRetryInterval = absl::Milliseconds(2);

// False if the previous holder removed the file after it was opened here: other processes then lock
// another file.
bool IsStillAt(int fd, const std::string& path) {
  struct stat opened;
  struct stat there;
  return fstat(fd, &opened) == 0 && lstat(path.c_str(), &there) == 0 &&
         opened.st_dev == there.st_dev && opened.st_ino == there.st_ino;
}

}  // namespace

absl::StatusOr<PathLock> PathLock::Acquire(const std::string& path) {
  std::string lock_path = absl::StrCat(path, ".lock");
  const absl::Time deadline = SteadyNow() + kTimeout;
  for (;;) {
    UniqueFd fd(
        open(lock_path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600));
    if (!fd.ok()) return ErrnoToStatus(errno, absl::StrCat("creating '", lock_path, "'"));
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      if (IsStillAt(fd.get(), lock_path)) return PathLock(std::move(fd), std::move(lock_path));
    } else if (errno != EWOULDBLOCK && errno != EINTR) {
      return ErrnoToStatus(errno, absl::StrCat("locking '", lock_path, "'"));
    }
    if (SteadyNow() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("another process holds the lock '", lock_path, "'"));
    }
    absl::SleepFor(kRetryInterval);
  }
}

PathLock::~PathLock() {
  // Removes the file before the descriptor, and with it the lock, is closed: no other process can
  // hold the lock yet.
  if (fd_.ok()) unlink(path_.c_str());
}

}  // namespace bulkhead::vmm
