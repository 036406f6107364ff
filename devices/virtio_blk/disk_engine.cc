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

}  // namespace

absl::StatusOr<ChosenEngine> CreateEngine(EngineKind kind, const DiskFile& disk,
                                          uint32_t max_operations) {
  ASSIGN_OR_RETURN(ChosenEngine chosen, CreatePlainEngine(kind, disk, max_operations));
  if (disk.is_direct()) {
    chosen.engine = std::make_unique<DirectEngine>(std::move(chosen.engine), disk, max_operations);
  }
  return chosen;
}

}  // namespace bulkhead::devices::virtio
