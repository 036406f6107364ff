#include "devices/virtio_blk/engine_choice.h"

#include <algorithm>

namespace bulkhead::devices::virtio {
namespace {

// Of the other engine, for a mean.
constexpr uint32_t kOtherWrites = EngineChoice::kTrialWrites / EngineChoice::kShare / 2;
// A single stall of the medium is no reason to leave io_uring.
constexpr uint32_t kWinsToSwitch = 2;
// A trial whose writes hardly come any more, or fail, ends without a result.
constexpr uint32_t kMostOtherLengths = 16 * EngineChoice::kTrialWrites;

}  // namespace

bool EngineChoice::NextIsSide(uint64_t length) {
  if (trial_length_ == 0) {
    if (--until_trial_ != 0) return prefers_side_;
    trial_length_ = length;
  }
  if (length != trial_length_ || trial_writes_ == kTrialWrites) {
    if (++other_lengths_ == kMostOtherLengths) Conclude(/*switches=*/false);
    return prefers_side_;
  }
  ++trial_writes_;
  return (random_() % kShare == 0) != prefers_side_;
}

void EngineChoice::Ended(bool is_side, uint64_t length, absl::Duration time) {
  if (trial_length_ != length) return;
  Times& times = is_side == prefers_side_ ? preferred_ : other_;
  times.sum += time;
  ++times.count;
  if (trial_writes_ < kTrialWrites || other_.count < kOtherWrites) return;
  if (preferred_.count < kOtherWrites) return;
  Conclude(prefers_side_ ? other_.mean() <= preferred_.mean() : SideWins());
}

// Alone, threads do worse than in a trial, where few of them run.
bool EngineChoice::SideWins() {
  wins_ = 4 * other_.mean() < 3 * preferred_.mean() ? wins_ + 1 : 0;
  return wins_ == kWinsToSwitch;
}

void EngineChoice::Conclude(bool switches) {
  if (switches) {
    prefers_side_ = !prefers_side_;
    wins_ = 0;
  }
  rest_ = switches || wins_ != 0 ? kMinRest : std::min(2 * rest_, kMaxRest);
  until_trial_ = rest_;
  trial_length_ = 0;
  trial_writes_ = other_lengths_ = 0;
  preferred_ = other_ = {};
}

}  // namespace bulkhead::devices::virtio
