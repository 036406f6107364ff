#ifndef BULKHEAD_VMM_CONTROL_PATH_LOCK_H_
#define BULKHEAD_VMM_CONTROL_PATH_LOCK_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A lock for checking and then replacing the file at a path: an flock(2) on PATH.lock. PATH.lock
// exists only while a process holds it, or after one was killed while it held it.
// Thread-compatible.
class PathLock {
 public:
  // Waits a few seconds at most for another holder. Errors: DeadlineExceeded, as open(2).
  static absl::StatusOr<PathLock> Acquire(const std::string& path);
  PathLock(PathLock&& other) noexcept = default;
  PathLock& operator=(PathLock&& other) = delete;
  ~PathLock();

 private:
  PathLock(UniqueFd fd, std::string lock_path) : fd_(std::move(fd)), path_(std::move(lock_path)) {}

  UniqueFd fd_;  // not ok(): moved from
  std::string path_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_PATH_LOCK_H_
