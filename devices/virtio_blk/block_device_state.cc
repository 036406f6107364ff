// What of a BlockDevice outlives its process.
#include <errno.h>
#include <string.h>

#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "devices/virtio_blk/block_device.h"

namespace bulkhead::devices::virtio {
namespace {

struct Saved {
  uint64_t capacity;  // sectors, as the driver was told
  uint8_t reserved[6];
  uint8_t writeback_failed;
  uint8_t writeback;  // the cache mode that the driver has chosen
};
static_assert(std::has_unique_object_representations_v<Saved>);

// Its result tells of failed writeback.
bool PromisesDurability(const FileOperation& operation) {
  switch (operation.kind) {
    case FileOperation::Kind::kSync:
    case FileOperation::Kind::kSyncRange:
      return true;
    case FileOperation::Kind::kWrite:
      return operation.durable;
    default:
      return false;
  }
}

}  // namespace

size_t BlockDevice::SaveState(absl::Span<uint8_t> out) const {
  static_assert(sizeof(Saved) == kSavedBytes);
  const Saved saved = {.capacity = config_.capacity,
                       .reserved = {},
                       .writeback_failed = writeback_failed_,
                       .writeback = config_.writeback};
  memcpy(out.data(), &saved, sizeof(saved));
  return sizeof(saved);
}

absl::Status BlockDevice::RestoreState(absl::Span<const uint8_t> state) {
  Saved saved;
  if (state.size() != sizeof(saved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk: saved state of ", state.size(), " bytes"));
  }
  memcpy(&saved, state.data(), sizeof(saved));
  const bool chosen = (negotiated_ & kBlockConfigWce) != 0;
  if (saved.writeback > 1 || (saved.writeback == 0 && !chosen) || saved.writeback_failed > 1) {
    return absl::InvalidArgumentError("disk: impossible cache mode");
  }
  config_.writeback = saved.writeback;
  UpdateWriteThrough();
  if (saved.writeback_failed != 0) writeback_failed_ = true;
  if (saved.capacity != config_.capacity) {
    LogInfo(
        absl::StrCat("disk: has ", config_.capacity, " sectors now, instead of ", saved.capacity));
    services_->ConfigChanged();
  }
  return absl::OkStatus();
}

int32_t BlockDevice::WithWritebackFailure(const FileOperation& operation, int32_t result) const {
  // A part of a flush (kSyncRange) that went well is not its end.
  if (!writeback_failed_ || !PromisesDurability(operation) || result < 0) return result;
  return operation.kind == FileOperation::Kind::kSyncRange ? result : -EIO;
}

void BlockDevice::OnFailureTold(const FileOperation& operation) {
  if (!writeback_failed_ || !PromisesDurability(operation)) return;
  writeback_failed_ = false;
  // Saved after the driver was told: a death in between tells it twice.
  host_->StateChanged();
}

void BlockDevice::OnFailureNotTold(const FileOperation& operation) {
  if (writeback_failed_ || !PromisesDurability(operation)) return;
  writeback_failed_ = true;
  host_->StateChanged();
}

}  // namespace bulkhead::devices::virtio
