#ifndef BULKHEAD_VMM_CONFIG_HOST_FILE_H_
#define BULKHEAD_VMM_CONFIG_HOST_FILE_H_

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/side_thread.h"
#include "base/steady_cond_var.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// Opens a regular file or, unless `regular_only`, a block device. Never waits for a FIFO's writer,
// never opens a character device (to open one can have effects), and leaves O_NONBLOCK off: with it
// Linux before 6.10 fails every io_uring request on a block device that cannot do without waiting
// (dm-crypt, zram). `flags`: as of open(2), without O_CREAT. Errors: InvalidArgument, one line
// that names the path and what to do.
absl::StatusOr<UniqueFd> OpenHostFile(const std::string& path, int flags, bool regular_only);

// A file or block device of a device, whose processes use it one after the other. Each process gets
// an open file description of its own, so that what one does to it (F_SETFL, locks, errors taken
// note of) is not its successor's. The vmm keeps one that no process ever gets. It
//  - holds the lock, which a process thus cannot release;
//  - holds a block device exclusively (O_EXCL);
//  - hears of every failed writeback once more. The kernel reports one once for each description,
//    and a process may die between hearing of it and telling the guest.
//
// File systems may not answer for as long as a server is away. After Open() nothing waits for one
// for longer than kPatience: what takes longer goes on elsewhere, and is there for a later call.
//
// Thread-compatible.
class HostFile {
 public:
  struct Options {
    bool read_only = false;
    bool direct = false;  // O_DIRECT: past the host's page cache
    bool shared = false;  // other programs may write it at the same time
    bool lock = true;
  };
  // Locks it: shared if read-only or `shared`, else exclusively. Waits, for a bounded time, for I/O
  // of a VM that has ended. Errors: InvalidArgument (one line: path, problem, remedy; it
  // has less than one sector of 512 bytes, for one), ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<HostFile>> Open(const std::string& path,
                                                        const Options& options);

  // For people: absolute where that can be known.
  const std::string& path() const { return path_; }

  // How long a call waits for the file system.
  static constexpr absl::Duration kPatience = absl::Milliseconds(200);

  // An open file description for the next process. Its predecessor is dead. It was opened before
  // that one began to serve, where that was possible. Errors: as open(2); DeadlineExceeded (call
  // again).
  absl::StatusOr<UniqueFd> TakeForProcess();
  // Closes what TakeForProcess() gave, which the process has by now. Does not wait.
  void Close(UniqueFd fd);

  // False: the kernel still reads or writes for an earlier process, though that is dead, or does
  // not tell yet. Only direct I/O outlives its process.
  bool EarlierIoHasEnded();

  // A writeback has failed that no process has been told of by this since
  // ForgetWritebackFailure(). Does not block.
  bool HasWritebackFailure();
  void ForgetWritebackFailure() { writeback_failure_ = false; }
  // The one that was told did not tell the guest, and its successor knows nothing of it.
  void RememberWritebackFailure() { writeback_failure_ = !options_.read_only; }

 private:
  struct Opened {
    UniqueFd fd;
    off_t lock_position = 0;
  };
  // What jobs of side_ answer.
  struct Answers {
    absl::Mutex mutex;
    SteadyCondVar changed;
    bool opening ABSL_GUARDED_BY(mutex) = false;
    absl::StatusOr<Opened> next ABSL_GUARDED_BY(mutex) = absl::UnknownError("");
    bool asking ABSL_GUARDED_BY(mutex) = false;
    // Lock positions of processes that may have direct I/O in flight.
    std::vector<off_t> earlier ABSL_GUARDED_BY(mutex);
  };

  HostFile(UniqueFd own, std::string path, const Options& options)
      : own_(std::make_shared<const UniqueFd>(std::move(own))),
        path_(std::move(path)),
        options_(options) {}

  absl::Status Lock();
  static absl::StatusOr<Opened> OpenForProcess(int own, const std::string& path,
                                               const Options& options);
  // Opens a description ahead, if there is none. False: that is not finished yet.
  bool OpenNext();
  // False: after kPatience it is still so.
  bool AwaitEnd(const bool& under_way) ABSL_EXCLUSIVE_LOCKS_REQUIRED(answers_->mutex);

  // Shared with jobs of side_, which may outlive this.
  const std::shared_ptr<const UniqueFd> own_;
  const std::shared_ptr<Answers> answers_ = std::make_shared<Answers>();
  const std::string path_;
  const Options options_;
  SideThread side_;
  bool writeback_failure_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_HOST_FILE_H_
