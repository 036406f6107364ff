#include "vmm/supervisor/restart_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {

RestartPolicy::Decision RestartPolicy::OnEnd(absl::Time now, absl::Duration served, bool clean) {
  using Action = Decision::Action;
  if (spec_.policy == RestartSpec::Policy::kNever) {
    return {.action = Action::kFail,
            .delay = {},
            .reason = "it ended, and its policy is never to restart"};
  }
  if (clean && spec_.policy == RestartSpec::Policy::kOnFailure) {
    return {.action = Action::kStop, .delay = {}, .reason = "it ended by itself"};
  }
  ends_.push_back(now);
  while (now - ends_.front() > spec_.crash_window) ends_.pop_front();
  if (spec_.max_crashes >= 0 && ends_.size() >= static_cast<size_t>(spec_.max_crashes)) {
    return {.action = Action::kFail,
            .delay = {},
            .reason = absl::StrCat(ends_.size(), ends_.size() == 1 ? " crash" : " crashes", " in ",
                                   absl::FormatDuration(spec_.crash_window))};
  }
  // What is not counted need not be remembered.
  if (spec_.max_crashes < 0) ends_.clear();
  if (served >= kStableRun) backoff_ = absl::ZeroDuration();
  return {.action = Action::kRestart, .delay = NextDelay(), .reason = ""};
}

absl::Duration RestartPolicy::NextDelay() {
  const absl::Duration delay = backoff_ * (0.8 + 0.4 * random_());
  backoff_ = std::min(std::max(backoff_ * 2, spec_.min_backoff), spec_.max_backoff);
  return delay;
}

void RestartPolicy::Forget() {
  ends_.clear();
  backoff_ = absl::ZeroDuration();
}

}  // namespace bulkhead::vmm
