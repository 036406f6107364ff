#include "devices/virtio_blk/disk_engine.h"

#include <poll.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "devices/virtio_blk/direct_engine.h"
#include "devices/virtio_blk/io_ring.h"
#include "devices/virtio_blk/io_threads.h"

namespace bulkhead::devices::virtio {

bool DiskEngine::Drain(absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  while (in_flight() != 0) {
    Submit();
    Result result;
    if (Reap(result)) continue;
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    pollfd event{.fd = fd(), .events = POLLIN, .revents = 0};
    const timespec limit = absl::ToTimespec(left);
    ppoll(&event, 1, &limit, nullptr);
  }
  return true;
}

absl::StatusOr<EngineKind> ParseEngineKind(absl::string_view name) {
  if (name == "auto") return EngineKind::kAuto;
  if (name == "io_uring") return EngineKind::kIoUring;
  if (name == "threads") return EngineKind::kThreads;
  return absl::InvalidArgumentError(
      absl::StrCat("--io_engine=", name, ": must be auto, io_uring or threads"));
}

namespace {

// How many writes to the page cache the thread that does them reports at a time. Four of 4 KiB take
// 20 µs.
constexpr uint32_t kWritesAtOnce = 4;

absl::StatusOr<ChosenEngine> CreatePlainEngine(EngineKind kind, const DiskFile& disk,
                                               uint32_t max_operations) {
  ChosenEngine chosen;
  // The threads' engine does without threads what lies in memory.
  if (kind == EngineKind::kIoUring || (kind == EngineKind::kAuto && !disk.is_in_memory)) {
    auto ring = IoRing::Create(disk, max_operations);
    if (ring.ok()) {
      chosen.engine = *std::move(ring);
      chosen.is_io_uring = true;
      return chosen;
    }
    if (kind == EngineKind::kIoUring) return ring.status();
    LogInfo(absl::StrCat("disk: uses threads, without io_uring: ", ring.status().message()));
  }
  ASSIGN_OR_RETURN(chosen.engine, IoThreads::Create(disk, max_operations, {}));
  return chosen;
}

std::unique_ptr<DiskEngine> WithAlignment(std::unique_ptr<DiskEngine> engine, const DiskFile& disk,
                                          uint32_t max_operations) {
  if (!disk.is_direct()) return engine;
  return std::make_unique<DirectEngine>(std::move(engine), disk, max_operations);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskEngine>> CreateSideEngine(EngineKind kind, bool is_io_uring,
                                                             const DiskFile& disk,
                                                             uint32_t max_operations) {
  if (disk.read_only) return nullptr;
  IoThreads::Options options;
  if (disk.is_block_device) {
    // BLKDISCARD is an ioctl; io_uring can discard since Linux 6.12 only.
    if (!is_io_uring) return nullptr;
    options.max_threads = 1;
  } else if (kind == EngineKind::kIoUring || disk.is_in_memory) {
    return nullptr;
  } else if (disk.is_direct()) {
    // The kernel completes io_uring's writes in a workqueue of its own, which waits for a processor
    // where it is busy; a thread that waits for its write is woken by the interrupt itself.
    if (!is_io_uring || !disk.knows_parallel_writes) return nullptr;
  } else {
    // Writes to the page cache hold the file's lock: of several threads, as of io_uring's workers,
    // one works and the others wait.
    if (disk.knows_nowait_writes) return nullptr;
    options = {.max_threads = 1, .at_once = kWritesAtOnce};
  }
  ASSIGN_OR_RETURN(auto threads, IoThreads::Create(disk, max_operations, options));
  return WithAlignment(std::move(threads), disk, max_operations);
}

absl::StatusOr<ChosenEngine> CreateEngine(EngineKind kind, const DiskFile& disk,
                                          uint32_t max_operations) {
  ASSIGN_OR_RETURN(ChosenEngine chosen, CreatePlainEngine(kind, disk, max_operations));
  chosen.engine = WithAlignment(std::move(chosen.engine), disk, max_operations);
  return chosen;
}

}  // namespace bulkhead::devices::virtio
