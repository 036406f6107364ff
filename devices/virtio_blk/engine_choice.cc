#include "devices/virtio_blk/engine_choice.h"

#include <algorithm>

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kOtherWrites = EngineChoice::kTrialWrites / EngineChoice::kShare;
// A single stall of the medium is no reason to leave io_uring.
constexpr uint32_t kWinsToSwitch = 2;

}  // namespace

bool EngineChoice::NextIsSide() {
  if (trial_writes_ == 0 && --until_trial_ != 0) return prefers_side_;
  if (trial_writes_ == kTrialWrites) return prefers_side_;  // its last results are due
  return (trial_writes_++ % kShare == 0) != prefers_side_;
}

void EngineChoice::Ended(bool is_side, absl::Duration time) {
  if (trial_writes_ == 0) return;
  Times& times = is_side == prefers_side_ ? preferred_ : other_;
  times.sum += time;
  ++times.count;
  if (other_.count >= kOtherWrites && preferred_.count != 0) Conclude();
}

void EngineChoice::Conclude() {
  bool switches;
  if (prefers_side_) {
    switches = other_.mean() <= preferred_.mean();
  } else {
    // Alone, threads do worse than in a trial, where few of them run.
    const bool wins = 4 * other_.mean() < 3 * preferred_.mean();
    wins_ = wins ? wins_ + 1 : 0;
    switches = wins_ == kWinsToSwitch;
  }
  if (switches) {
    prefers_side_ = !prefers_side_;
    wins_ = 0;
  }
  rest_ = switches || wins_ != 0 ? kMinRest : std::min(2 * rest_, kMaxRest);
  until_trial_ = rest_;
  trial_writes_ = 0;
  preferred_ = other_ = {};
}

}  // namespace bulkhead::devices::virtio
