#include "devices/virtio_blk/io_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"
#include "base/event_fd.h"
#include "base/status_macros.h"

namespace bulkhead::devices::virtio {
namespace {

using Kind = FileOperation::Kind;

constexpr size_t kStackBytes = 128 << 10;  // the threads make system calls and little else

// The kernel takes no more buffers in one call (UIO_MAXIOV).
int BufferCount(const FileOperation& operation) {
  return static_cast<int>(std::min<size_t>(operation.buffers.size(), 1024));
}

// As the system call: -1 and errno, or what it returned.
ssize_t Call(int file, const FileOperation& operation) {
  const off_t offset = static_cast<off_t>(operation.offset);
  const off_t length = static_cast<off_t>(operation.length);
  const iovec* buffers = operation.buffers.data();
  switch (operation.kind) {
    case Kind::kRead:
      return preadv2(file, buffers, BufferCount(operation), offset, 0);
    case Kind::kWrite:
      return pwritev2(file, buffers, BufferCount(operation), offset,
                      operation.durable ? RWF_DSYNC : 0);
    case Kind::kSync:
      return fdatasync(file);
    case Kind::kSyncRange:
      return sync_file_range(
          file, offset, length,
          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    case Kind::kAllocate:
      return fallocate(file, operation.mode, offset, length);
    case Kind::kDiscard: {
      uint64_t range[] = {operation.offset, operation.length};
      return ioctl(file, BLKDISCARD, range);
    }
  }
  errno = EINVAL;
  return -1;
}

int32_t CarryOut(int file, const FileOperation& operation) {
  const ssize_t result = Call(file, operation);
  return static_cast<int32_t>(result < 0 ? -errno : result);
}

}  // namespace

// What threads work on, and what they have done.
class IoThreads::Shared {
 public:
  Shared(int file, uint32_t at_once, EventFd event)
      : file_(file), at_once_(at_once), event_(std::move(event)) {}

  // Gives work to the threads. How many of the works wait for lack of an idle thread.
  size_t Give(std::vector<Work>& works) {
    absl::MutexLock lock(&mutex_);
    for (const Work& work : works) waiting_.push_back(work);
    works.clear();
    for (size_t i = std::min(waiting_.size(), idle_); i > 0; --i) work_given_.Signal();
    return waiting_.size() > idle_ ? waiting_.size() - idle_ : 0;
  }

  // Appends all results.
  void Take(std::vector<Result>& results) {
    absl::MutexLock lock(&mutex_);
    if (done_.empty()) return;
    results.insert(results.end(), done_.begin(), done_.end());
    done_.clear();
    has_done_.store(false, std::memory_order_relaxed);
    event_.Drain();
  }

  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    work_given_.SignalAll();
  }

  int event_fd() const { return event_.fd(); }
  // relaxed: a hint, Take() locks.
  bool has_done() const { return has_done_.load(std::memory_order_relaxed); }

  // False: the host does not let us.
  static bool StartThread(const std::shared_ptr<Shared>& shared) {
    return StartDetachedThread("disk-io", [shared] { shared->Serve(); }, kStackBytes) == 0;
  }

 private:
  void Serve() {
    mutex_.Lock();
    while (true) {
      ++idle_;
      while (waiting_.empty() && !stopped_) work_given_.Wait(&mutex_);
      --idle_;
      if (stopped_) break;
      Work works[kMostAtOnce];
      Result results[kMostAtOnce];
      const size_t count = std::min<size_t>(waiting_.size(), at_once_);
      std::copy_n(waiting_.begin(), count, works);
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(count));
      mutex_.Unlock();
      for (size_t i = 0; i < count; ++i) {
        results[i] = {works[i].id, CarryOut(file_, works[i].operation)};
      }
      mutex_.Lock();
      if (done_.empty()) event_.Signal();
      done_.insert(done_.end(), results, results + count);
      has_done_.store(true, std::memory_order_relaxed);
    }
    mutex_.Unlock();
  }

  const int file_;
  const uint32_t at_once_;
  const EventFd event_;  // readable while done_ is not empty

  absl::Mutex mutex_;
  absl::CondVar work_given_;
  std::deque<Work> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<Result> done_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> has_done_ = false;  // as done_
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<std::unique_ptr<IoThreads>> IoThreads::Create(const DiskFile& disk,
                                                             uint32_t max_operations,
                                                             const Options& options) {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return std::unique_ptr<IoThreads>(
      new IoThreads(disk, max_operations, options.max_threads,
                    std::make_shared<Shared>(disk.fd.get(), options.at_once, std::move(event))));
}

IoThreads::IoThreads(const DiskFile& disk, uint32_t max_operations, uint32_t max_threads,
                     std::shared_ptr<Shared> shared)
    : file_(disk.fd.get()),
      is_in_memory_(disk.is_in_memory),
      // With direct I/O the call waits for the medium, however it is asked.
      knows_nowait_(disk.knows_nowait && !disk.is_direct()),
      max_threads_(max_threads),
      shared_(std::move(shared)) {
  prepared_.reserve(max_operations);
  reaped_.reserve(max_operations);
}

IoThreads::~IoThreads() { shared_->Stop(); }

int IoThreads::fd() const { return shared_->event_fd(); }

bool IoThreads::has_results() const { return !reaped_.empty() || shared_->has_done(); }

void IoThreads::Prepare(const FileOperation& operation, uint64_t id) {
  prepared_.push_back({operation, id});
  ++in_flight_;
}

bool IoThreads::DoAtOnce(const Work& work) {
  const FileOperation& operation = work.operation;
  if (is_in_memory_) {
    if (operation.kind == Kind::kAllocate) return false;  // it may free many pages
    reaped_.push_back({work.id, CarryOut(file_, operation)});
    return true;
  }
  if (operation.kind != Kind::kRead || operation.blocking || !knows_nowait_) return false;
  const ssize_t result = preadv2(file_, operation.buffers.data(), BufferCount(operation),
                                 static_cast<off_t>(operation.offset), RWF_NOWAIT);
  // In all other cases, the end of the file and errors included, a thread repeats the read.
  if (result <= 0) return false;
  reaped_.push_back({work.id, static_cast<int32_t>(result)});
  return true;
}

bool IoThreads::Submit() {
  prepared_.erase(std::remove_if(prepared_.begin(), prepared_.end(),
                                 [this](const Work& work) { return DoAtOnce(work); }),
                  prepared_.end());
  size_t wanted = 0;
  if (!prepared_.empty()) {
    wanted = shared_->Give(prepared_);
  } else if (threads_ == 0) {
    wanted = in_flight_ - reaped_.size();  // given before, when no thread could be started
  }
  while (wanted > 0 && threads_ < max_threads_ && Shared::StartThread(shared_)) {
    ++threads_;
    --wanted;
  }
  return threads_ != 0 || in_flight_ == reaped_.size();
}

bool IoThreads::Reap(Result& result) {
  if (in_flight_ == 0) return false;
  if (reaped_.empty()) shared_->Take(reaped_);
  if (reaped_.empty()) return false;
  result = reaped_.back();
  reaped_.pop_back();
  --in_flight_;
  return true;
}

}  // namespace bulkhead::devices::virtio
