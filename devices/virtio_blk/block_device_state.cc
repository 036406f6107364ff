// The state of a BlockDevice that outlives its process.
#include <string.h>

#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "devices/virtio_blk/block_device.h"

namespace bulkhead::devices::virtio {
namespace {

struct Saved {
  uint64_t capacity;  // sectors, as the driver was told
  uint8_t reserved[5];
  uint8_t owes_flush;  // the next flush has to fail
  uint8_t owes_write;  // the next durable write has to fail, and the next flush
  uint8_t writeback;   // the cache mode that the driver has chosen
};
static_assert(std::has_unique_object_representations_v<Saved>);

}  // namespace

size_t BlockDevice::SaveState(absl::Span<uint8_t> out) const {
  static_assert(sizeof(Saved) == kSavedBytes);
  const Saved saved = {.capacity = config_.capacity,
                       .reserved = {},
                       .owes_flush = failures_.OwesFlush(),
                       .owes_write = failures_.OwesWrite(),
                       .writeback = config_.writeback};
  memcpy(out.data(), &saved, sizeof(saved));
  return sizeof(saved);
}

absl::Status BlockDevice::RestoreState(absl::Span<const uint8_t> state) {
  Saved saved;
  if (state.size() != sizeof(saved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk: saved state of ", state.size(), " bytes instead of ", sizeof(saved)));
  }
  memcpy(&saved, state.data(), sizeof(saved));
  const bool chosen = (negotiated_ & kBlockConfigWce) != 0;
  if (saved.writeback > 1 || (saved.writeback == 0 && !chosen) || saved.owes_flush > 1 ||
      saved.owes_write > 1) {
    return absl::InvalidArgumentError("disk: saved state with an impossible cache mode or failure");
  }
  limits_.Resume();
  config_.writeback = saved.writeback;
  UpdateWriteThrough();
  if (saved.owes_flush != 0 || saved.owes_write != 0) {
    const bool owes_write = saved.owes_write != 0 || failures_.OwesWrite();
    failures_.Failed();
    if (!owes_write) failures_.Report(/*is_flush=*/false);
    SaveFailures();
  }
  if (saved.capacity != config_.capacity) {
    const std::string sizes =
        absl::StrCat(config_.capacity, " sectors now, instead of ", saved.capacity);
    if (config_.capacity > saved.capacity) {
      LogInfo(absl::StrCat("disk: has ", sizes));
    } else {
      LogWarning(absl::StrCat("disk: has become smaller, ", sizes,
                              ": what the guest has beyond gives it I/O errors"));
    }
    services_->ConfigChanged();
  }
  return absl::OkStatus();
}

void BlockDevice::SaveFailures() {
  host_->OweWritebackFailure(failures_.OwesFlush());
  host_->StateChanged();
}

}  // namespace bulkhead::devices::virtio
