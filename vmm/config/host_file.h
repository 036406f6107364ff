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
// its own open file description, so that its actions (F_SETFL, locks, errors that it consumes) do
// not affect its successor. The vmm keeps another description, which no process ever gets. That one
//  - holds the lock, so a process cannot release it;
//  - holds a block device exclusively (O_EXCL);
//  - reports every failed writeback once more: the kernel reports each failure once for each
//    description, and a process may die between the report and the error to the guest.
//
// A file system may not answer for as long as its server is away. After Open() no call waits for it
// longer than kPatience: the operation continues on another thread, for a later call.
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
  // A memory file that is sealed against writing, as a read-only one. `name`: for messages. Errors:
  // as open(2).
  static absl::StatusOr<std::unique_ptr<HostFile>> OfMemory(UniqueFd memfd,
                                                            const std::string& name);

  // For messages: absolute if that is possible.
  const std::string& path() const { return path_; }
  // The vmm's own description. Stays this object's.
  int own_fd() const { return own_->get(); }

  // A further, read-only open file description, without a lock. May wait for the file system: for
  // the VM's start. Errors: as open(2).
  absl::StatusOr<UniqueFd> OpenForReading() const;

  // How long a call waits for the file system.
  static constexpr absl::Duration kPatience = absl::Milliseconds(200);

  // An open file description for the next process, once its predecessor is dead. If possible it was
  // opened before the predecessor began to serve. Errors: as open(2); DeadlineExceeded (call
  // again).
  absl::StatusOr<UniqueFd> TakeForProcess();
  // Closes the descriptor of TakeForProcess(), once the process has it. Does not wait.
  void Close(UniqueFd fd);

  // Makes a regular file `bytes` long. 0: the host has changed its size, which is only looked at.
  // Errors: FailedPrecondition (it is smaller than it was, or would get smaller; it is read-only or
  // a block device); DeadlineExceeded (its file system does not answer; the change continues); as
  // ftruncate(2).
  absl::Status Resize(uint64_t bytes);
  // A file that has become smaller is no error any more: the guest is to know it as it is now. Does
  // not wait.
  void AcceptSize();

  // False: the kernel still reads or writes for an earlier, dead process, or its answer is still
  // pending. Only direct I/O outlives its process.
  bool EarlierIoHasEnded();

  // Whether a writeback has failed since ForgetWritebackFailure(). Does not block.
  bool HasWritebackFailure();
  void ForgetWritebackFailure() { writeback_failure_ = false; }
  // The one that was told did not tell the guest, and its successor knows nothing of it.
  void RememberWritebackFailure() { writeback_failure_ = !options_.read_only; }

 private:
  struct Opened {
    UniqueFd fd;
    off_t lock_position = 0;
  };
  // The results of jobs of side_.
  struct Answers {
    absl::Mutex mutex;
    SteadyCondVar changed;
    bool opening ABSL_GUARDED_BY(mutex) = false;
    absl::StatusOr<Opened> next ABSL_GUARDED_BY(mutex) = absl::UnknownError("");
    bool asking ABSL_GUARDED_BY(mutex) = false;
    uint64_t known_bytes ABSL_GUARDED_BY(mutex) = 0;  // its size, as far as this VM has used it
    bool resizing ABSL_GUARDED_BY(mutex) = false;
    absl::StatusOr<uint64_t> resized ABSL_GUARDED_BY(mutex) = absl::UnknownError("");
    // Lock positions of processes that may have direct I/O in flight.
    std::vector<off_t> earlier ABSL_GUARDED_BY(mutex);
  };

  HostFile(UniqueFd own, std::string path, const Options& options)
      : own_(std::make_shared<const UniqueFd>(std::move(own))),
        path_(std::move(path)),
        options_(options) {}

  absl::Status Lock();
  // Returns the size that it has then. `known`: the least that it may have.
  static absl::StatusOr<uint64_t> ResizeNow(int own, const std::string& path,
                                            const Options& options, uint64_t bytes, uint64_t known);
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
