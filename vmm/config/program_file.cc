#include "vmm/config/program_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "vmm/sandbox/policy_note.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

// A script must be readable, as its interpreter reads it. A program need not be.
bool IsScript(const UniqueFd& file) {
  char start[2];
  return file.ok() && pread(file.get(), start, sizeof(start), 0) == sizeof(start) &&
         start[0] == '#' && start[1] == '!';
}

absl::StatusOr<ProgramFile::SeccompFilters> CompilePolicyOf(const UniqueFd& file, int open_error) {
  if (!file.ok()) return ErrnoToStatus(open_error, "reading its sandbox policy");
  ASSIGN_OR_RETURN(const std::string policy, ReadPolicyNote(file.get()));
  ProgramFile::SeccompFilters filters;
  ASSIGN_OR_RETURN(filters.starting, CompileDevicePolicy(policy));
  ASSIGN_OR_RETURN(filters.serving, CompileServingPolicy(policy));
  return filters;
}

}  // namespace

absl::StatusOr<ProgramFile> ProgramFile::OpenWithin(const std::string& path, absl::Duration timeout,
                                                    std::shared_ptr<const ProgramFolders> folders) {
  constexpr int kMaxOpens = 8;
  struct Open {
    absl::Mutex mutex;
    SteadyCondVar done;
    std::optional<absl::StatusOr<ProgramFile>> result ABSL_GUARDED_BY(mutex);
  };
  static std::atomic<int> opens{0};  // a counter
  const auto release = [] { opens.fetch_sub(1, std::memory_order_relaxed); };
  if (opens.fetch_add(1, std::memory_order_relaxed) >= kMaxOpens) {
    release();
    return absl::ResourceExhaustedError(absl::StrCat(
        path, ": ", kMaxOpens, " files of programs wait for a file system that does not answer"));
  }
  const auto open = std::make_shared<Open>();
  const int error = StartDetachedThread("open-program", [open, path, release, folders] {
    absl::StatusOr<ProgramFile> result = [&]() -> absl::StatusOr<ProgramFile> {
      if (folders == nullptr) return ProgramFile::Open(path);
      ASSIGN_OR_RETURN(UniqueFd fd, folders->OpenFile(path));
      return Take(path, std::move(fd));
    }();
    release();
    absl::MutexLock lock(&open->mutex);
    open->result = std::move(result);
    open->done.SignalAll();
  });
  if (error != 0) {
    release();
    return ErrnoToStatus(error, absl::StrCat(path, ": starting a thread that opens it"));
  }
  const absl::Time deadline = SteadyNow() + timeout;
  absl::MutexLock lock(&open->mutex);
  while (!open->result.has_value() && open->done.WaitUntil(&open->mutex, deadline)) {
  }
  if (open->result.has_value()) return *std::move(open->result);
  return absl::DeadlineExceededError(absl::StrCat(path, ": its file system does not answer"));
}

absl::StatusOr<ProgramFile> ProgramFile::Open(const std::string& path) {
  // O_PATH: neither waits for a pipe's other end nor needs permission to read.
  UniqueFd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, path);
  return Take(path, std::move(fd));
}

absl::StatusOr<ProgramFile> ProgramFile::Take(const std::string& path, UniqueFd fd) {
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
  const UniqueFd readable(open(by_descriptor.c_str(), O_RDONLY | O_CLOEXEC));
  const int error = errno;
  file.is_script_ = IsScript(readable);
  file.filters_ =
      std::make_shared<const absl::StatusOr<SeccompFilters>>(CompilePolicyOf(readable, error));
  file.fd_ = std::make_shared<const UniqueFd>(std::move(fd));
  return file;
}

absl::StatusOr<ProgramFile::SeccompFilters> ProgramFile::Filters() const {
  if (filters_ == nullptr) return absl::FailedPreconditionError("there is no program");
  if (filters_->ok()) return *filters_;
  return absl::FailedPreconditionError(absl::StrCat(path_, ": ", filters_->status().message()));
}

}  // namespace bulkhead::vmm
