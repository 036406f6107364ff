#include "devices/virtio_blk/io_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"

namespace bulkhead::devices::virtio {
namespace {

// Of each kind that the kernel has: its default is four for each CPU, too few for a network file
// system on a small machine, and without any limit for some files.
constexpr unsigned kMaxWorkers = 16;

// Of the best that the kernel knows. SUBMIT_ALL (Linux 5.18): it takes a whole batch even when one
// of its operations fails at once. COOP_TASKRUN (5.19): a completion does not interrupt this thread
// while it polls, but sets a flag, see has_results().
constexpr unsigned kSetupFlags[] = {
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_SUBMIT_ALL,
    0,
};

absl::Status SetupError(int error_number) {
  switch (error_number) {
    case EPERM:
    case EACCES:
      return absl::PermissionDeniedError(
          "io_uring is not permitted here: see the sysctl kernel.io_uring_disabled and the seccomp "
          "filter of a container");
    case ENOSYS:
      return absl::UnimplementedError("this kernel has no io_uring");
    default:
      return ErrnoToStatus(error_number, "io_uring_setup");
  }
}

// One buffer needs no vector: the kernel then copies none.
void PrepareTransfer(io_uring_sqe* entry, const FileOperation& operation, bool write) {
  const iovec* buffers = operation.buffers.data();
  const uint32_t count = static_cast<uint32_t>(operation.buffers.size());
  if (count == 1) {
    const uint32_t length = static_cast<uint32_t>(std::min<size_t>(buffers->iov_len, 1 << 30));
    if (write) {
      io_uring_prep_write(entry, 0, buffers->iov_base, length, operation.offset);
    } else {
      io_uring_prep_read(entry, 0, buffers->iov_base, length, operation.offset);
    }
  } else if (write) {
    io_uring_prep_writev(entry, 0, buffers, count, operation.offset);
  } else {
    io_uring_prep_readv(entry, 0, buffers, count, operation.offset);
  }
}

void PrepareSyncRange(io_uring_sqe* entry, const FileOperation& operation) {
  // 0: up to the end of the file, which includes the range.
  const uint32_t length =
      operation.length <= UINT32_MAX ? static_cast<uint32_t>(operation.length) : 0;
  io_uring_prep_sync_file_range(
      entry, 0, length, operation.offset,
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

// All operations of Prepare().
constexpr uint8_t kOperations[] = {
    IORING_OP_READ,  IORING_OP_READV,     IORING_OP_WRITE,           IORING_OP_WRITEV,
    IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_SYNC_FILE_RANGE,
};

// Debian 12's shared liburing lacks its functions for these two.
absl::Status Register(const io_uring& ring, unsigned operation, void* argument, unsigned count) {
  if (syscall(SYS_io_uring_register, ring.ring_fd, operation, argument, count) >= 0) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno, "io_uring_register of the ring's restrictions");
}

}  // namespace

absl::Status RestrictAndEnable(io_uring& ring, bool is_registered) {
  std::vector<io_uring_restriction> restrictions(std::size(kOperations) + 2);
  for (size_t i = 0; i < std::size(kOperations); ++i) {
    restrictions[i].opcode = IORING_RESTRICTION_SQE_OP;
    restrictions[i].sqe_op = kOperations[i];
  }
  io_uring_restriction* flags = &restrictions[std::size(kOperations)];
  flags[0].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  flags[0].sqe_flags = IOSQE_ASYNC | (is_registered ? IOSQE_FIXED_FILE : 0);
  flags[1].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  flags[1].sqe_flags = is_registered ? IOSQE_FIXED_FILE : 0;
  RETURN_IF_ERROR(Register(ring, IORING_REGISTER_RESTRICTIONS, restrictions.data(),
                           static_cast<unsigned>(restrictions.size())));
  return Register(ring, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
}

absl::StatusOr<std::unique_ptr<IoRing>> IoRing::Create(const DiskFile& disk,
                                                       uint32_t max_operations) {
  std::unique_ptr<IoRing> ring(new IoRing(disk));
  io_uring_params parameters;
  int error = -EINVAL;
  for (size_t i = 0; i < std::size(kSetupFlags) && error == -EINVAL; ++i) {
    memset(&parameters, 0, sizeof(parameters));
    parameters.flags = kSetupFlags[i] | IORING_SETUP_R_DISABLED;
    error = io_uring_queue_init_params(max_operations, &ring->ring_, &parameters);
  }
  if (error < 0) {
    ring->ring_.ring_fd = -1;
    return SetupError(-error);
  }
  if ((parameters.features & IORING_FEAT_NATIVE_WORKERS) == 0) {
    return absl::UnimplementedError(
        "this kernel's io_uring outlives a process: Linux 5.12 or newer is needed");
  }
  if (ring->is_registered_) {
    const int result = io_uring_register_files(&ring->ring_, &ring->file_, 1);
    if (result < 0) return ErrnoToStatus(-result, "io_uring_register_files");
  }
  // Since Linux 5.15. Before, the default holds.
  unsigned workers[] = {kMaxWorkers, kMaxWorkers};
  io_uring_register_iowq_max_workers(&ring->ring_, workers);
  RETURN_IF_ERROR(RestrictAndEnable(ring->ring_, ring->is_registered_));
  return ring;
}

IoRing::~IoRing() {
  if (ring_.ring_fd >= 0) io_uring_queue_exit(&ring_);
}

bool IoRing::has_results() const {
  // Operations have ended whose results the kernel puts in when this thread enters it. relaxed: a
  // hint.
  const std::atomic_ref<unsigned> flags(*ring_.sq.kflags);
  if ((flags.load(std::memory_order_relaxed) & IORING_SQ_TASKRUN) != 0) io_uring_get_events(&ring_);
  const unsigned ready = io_uring_cq_ready(&ring_);
  return ready != 0 && 4 * ready >= in_flight_;
}

void IoRing::Prepare(const FileOperation& operation, uint64_t id) {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry == nullptr) abort();  // the caller's error: there is one entry for each operation
  switch (operation.kind) {
    case FileOperation::Kind::kRead:
      PrepareTransfer(entry, operation, false);
      break;
    case FileOperation::Kind::kWrite:
      PrepareTransfer(entry, operation, true);
      if (operation.durable) entry->rw_flags = RWF_DSYNC;
      break;
    case FileOperation::Kind::kSync:
      io_uring_prep_fsync(entry, 0, IORING_FSYNC_DATASYNC);
      break;
    case FileOperation::Kind::kAllocate:
      io_uring_prep_fallocate(entry, 0, operation.mode, static_cast<off_t>(operation.offset),
                              static_cast<off_t>(operation.length));
      break;
    case FileOperation::Kind::kSyncRange:
      PrepareSyncRange(entry, operation);
      break;
    case FileOperation::Kind::kDiscard:
      abort();  // the caller's error
  }
  if (is_registered_) {
    entry->flags |= IOSQE_FIXED_FILE;
  } else {
    entry->fd = file_;
  }
  // The kernel itself gives the other kinds to a worker.
  const bool transfers =
      operation.kind == FileOperation::Kind::kRead || operation.kind == FileOperation::Kind::kWrite;
  if (operation.blocking || (transfers && !knows_nowait_)) entry->flags |= IOSQE_ASYNC;
  io_uring_sqe_set_data64(entry, id);
  ++in_flight_;
}

bool IoRing::Submit() {
  // Some kernels stop in the middle of a batch: each turn takes at least one entry.
  while (io_uring_sq_ready(&ring_) != 0) {
    const int submitted = io_uring_submit(&ring_);
    if (submitted == -EINTR) continue;
    if (submitted <= 0) return false;  // EAGAIN: no memory; EBUSY: results must be reaped first
  }
  return true;
}

bool IoRing::Reap(Result& result) {
  io_uring_cqe* entry = nullptr;
  if (io_uring_peek_cqe(&ring_, &entry) != 0) return false;
  result.id = io_uring_cqe_get_data64(entry);
  result.result = entry->res;
  io_uring_cqe_seen(&ring_, entry);
  --in_flight_;
  return true;
}

}  // namespace bulkhead::devices::virtio
