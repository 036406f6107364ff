#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_DISK_ENGINE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_DISK_ENGINE_H_

#include <stdint.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/file_operation.h"

namespace bulkhead::devices::virtio {

// Carries out operations on the disk's file. No call waits for the file. All calls come from one
// thread.
//
// What an engine relies on, and gives to recovery:
// - No operation through the page cache outlives the process. This thread or a worker carries it
//   out, workers are threads of this process, and its pidfd reports its death when the last of them
//   has ended. A successor starts after that, so its writes are never overwritten by a late write
//   of its predecessor, and no late read reaches guest memory. Direct I/O may outlive the process,
//   and holds a lock for which the vmm waits before it attaches a successor
//   (vmm/config/host_file.h). A network file system that bypasses the page cache by itself behaves
//   like direct I/O; this cannot be detected here.
// - An operation may be done again: the driver has not seen its end, so it does not rely on it, and
//   operations in flight have no order.
class DiskEngine {
 public:
  struct Result {
    uint64_t id = 0;
    int32_t result = 0;  // bytes moved, or -errno
    // What was read is not in the operation's buffers yet: to be given to Release().
    bool is_aside = false;
  };

  virtual ~DiskEngine() = default;

  // Adds an operation to the next batch. No more than the engine's maximum may be unfinished.
  virtual void Prepare(const FileOperation& operation, uint64_t id) = 0;
  // Starts the batch. Results may be there at once: Reap() them. False: the host is short of
  // something, and a part of the batch has not been started; try again later.
  virtual bool Submit() = 0;
  // Takes the result of a finished operation, in any order. False: none.
  virtual bool Reap(Result& result) = 0;
  // Of a result that is_aside, once: what was read goes into the operation's buffers, if `copy`, or
  // is dropped.
  virtual void Release(const Result&, bool /*copy*/) {}

  // Waits until nothing is in flight, and drops the results. False: not in this time.
  virtual bool Drain(absl::Duration timeout);

  // Operations wait for results to be reaped, and Submit() would start some now.
  virtual bool has_waiting() const { return false; }

  // It is time to Reap(), as far as a load or two tell; the kernel is asked only if it says that it
  // has results. A hint: fd() tells for sure.
  virtual bool has_results() const { return false; }

  // Prepared and not reaped.
  virtual uint32_t in_flight() const = 0;

  // Threads of its own that it uses, at most.
  virtual uint32_t max_threads() const { return 0; }

  // Readable when an operation has ended that Submit() did not end: Reap().
  virtual int fd() const = 0;
};

enum class EngineKind {
  // Threads for a file in memory; else io_uring, or threads where it is refused, as the seccomp
  // filters of containers do. For some operations see CreateSideEngine().
  kAuto,
  kIoUring,
  kThreads,
};

// "auto", "io_uring", "threads". Errors: InvalidArgument.
absl::StatusOr<EngineKind> ParseEngineKind(absl::string_view name);

struct ChosenEngine {
  std::unique_ptr<DiskEngine> engine;
  bool is_io_uring = false;
};

// The engine for what CreateEngine()'s does not do, or slowly; nullptr: there is none. Writes to a
// file, unless kIoUring: ARCHITECTURE.md says why. Discards of a block device.
// Errors: as eventfd(2).
absl::StatusOr<std::unique_ptr<DiskEngine>> CreateSideEngine(EngineKind kind, bool is_io_uring,
                                                             const DiskFile& disk,
                                                             uint32_t max_operations);

// For up to `max_operations` at a time on `disk`, which must outlive the engine. Logs it if kAuto
// falls back. Errors: as io_uring_setup(2) and eventfd(2).
absl::StatusOr<ChosenEngine> CreateEngine(EngineKind kind, const DiskFile& disk,
                                          uint32_t max_operations);

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_DISK_ENGINE_H_
