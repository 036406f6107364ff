#ifndef BULKHEAD_VMM_CONFIG_PROGRAM_FILE_H_
#define BULKHEAD_VMM_CONFIG_PROGRAM_FILE_H_

#include <linux/filter.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "vmm/config/program_folders.h"

namespace bulkhead::vmm {

// An executable file that is opened once, so that later starts run this file even if its name is
// removed or replaced. Only overwriting it in place (the kernel allows that while no process runs
// it) changes the program. Copies share one descriptor. Thread-compatible.
class ProgramFile {
 public:
  // Errors: as open(2) and access(2), and InvalidArgument (no regular file), naming the path.
  static absl::StatusOr<ProgramFile> Open(const std::string& path);
  // For a caller that cannot wait for a file system that hangs. With `folders`, the file must be in
  // one of them. Errors: as above and as ProgramFolders::OpenFile(), DeadlineExceeded,
  // ResourceExhausted (too many earlier calls still wait).
  static absl::StatusOr<ProgramFile> OpenWithin(
      const std::string& path, absl::Duration timeout,
      std::shared_ptr<const ProgramFolders> folders = nullptr);

  // None.
  ProgramFile() = default;

  struct SeccompFilters {
    std::vector<sock_filter> starting;
    std::vector<sock_filter> serving;  // a further one, once it is attached
  };
  // The seccomp filters that its policy makes; without a policy, the common ones. Errors:
  // FailedPrecondition, naming the path: the policy is wrong, or the file cannot be read.
  absl::StatusOr<SeccompFilters> Filters() const;

  // By which it was opened.
  const std::string& path() const { return path_; }
  // For execveat(2) with AT_EMPTY_PATH. -1: none.
  int fd() const { return fd_ == nullptr ? -1 : fd_->get(); }
  // It begins with "#!". Its interpreter opens it by the descriptor, as /dev/fd/N, so that must
  // stay open in the new process.
  bool is_script() const { return is_script_; }

 private:
  static absl::StatusOr<ProgramFile> Take(const std::string& path, UniqueFd fd);

  std::string path_;
  std::shared_ptr<const UniqueFd> fd_;
  std::shared_ptr<const absl::StatusOr<SeccompFilters>> filters_;
  bool is_script_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_PROGRAM_FILE_H_
