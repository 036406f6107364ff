#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_IO_THREADS_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_IO_THREADS_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "devices/virtio_blk/disk_engine.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/file_operation.h"

namespace bulkhead::devices::virtio {

// The engine over a pool of threads that make blocking system calls: for machines that refuse
// io_uring, and for what io_uring cannot do. Reads that the page cache has are done at once, by the
// thread that submits them, as all reads, writes and flushes of a file in memory are: the kernel's
// io_uring gives those to its workers. Threads start as they are needed and stay.
// Thread-compatible.
class IoThreads : public DiskEngine {
 public:
  struct Options {
    uint32_t max_threads = 16;
    // How many operations a thread takes, and reports, at a time, where as many wait: 1 to
    // kMostAtOnce.
    uint32_t at_once = 1;
  };
  static constexpr uint32_t kMostAtOnce = 16;

  // Errors: as eventfd(2).
  static absl::StatusOr<std::unique_ptr<IoThreads>> Create(const DiskFile& disk,
                                                           uint32_t max_operations,
                                                           const Options& options);
  // Does not wait for threads in a system call: call Drain() before.
  ~IoThreads() override;
  IoThreads(const IoThreads&) = delete;
  IoThreads& operator=(const IoThreads&) = delete;

  void Prepare(const FileOperation& operation, uint64_t id) override;
  bool Submit() override;
  bool Reap(Result& result) override;
  bool has_results() const override;
  uint32_t in_flight() const override { return in_flight_; }
  uint32_t max_threads() const override { return max_threads_; }
  int fd() const override;

 private:
  struct Work {
    FileOperation operation;
    uint64_t id;
  };
  class Shared;  // with the threads, which may outlive this

  IoThreads(const DiskFile& disk, uint32_t max_operations, uint32_t max_threads,
            std::shared_ptr<Shared> shared);

  // Carries it out, if that does not wait for the file. Then its result is in reaped_.
  bool DoAtOnce(const Work& work);

  const int file_;
  const bool is_in_memory_;
  const bool knows_nowait_;
  const uint32_t max_threads_;
  const std::shared_ptr<Shared> shared_;
  std::vector<Work> prepared_;
  std::vector<Result> reaped_;  // taken from the threads, or done at once
  uint32_t threads_ = 0;
  uint32_t in_flight_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_IO_THREADS_H_
