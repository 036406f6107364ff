#include "vmm/machine/standstill.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace bulkhead::vmm {

absl::Status Standstill::AddPause(const std::string& requester, std::string why) {
  pauses_[requester] = std::move(why);
  const absl::Status paused = Apply();
  if (!paused.ok()) pauses_.erase(requester);
  return paused;
}

absl::Status Standstill::RemovePause(const std::string& requester) {
  pauses_.erase(requester);
  return Apply();
}

absl::Status Standstill::AddHold(const std::string& device) {
  ++holds_[device];
  return Apply();
}

absl::Status Standstill::RemoveHold(const std::string& device) {
  if (--holds_[device] <= 0) holds_.erase(device);
  return Apply();
}

absl::Status Standstill::OnNewVcpus() {
  motion_ = Motion::kRuns;
  return is_requested() ? Apply() : absl::OkStatus();
}

Standstill::Motion Standstill::requested() const {
  if (!pauses_.empty()) return Motion::kPaused;
  return holds_.empty() ? Motion::kRuns : Motion::kHeld;
}

void Standstill::Resume() {
  vm_.continue_clock();
  vm_.resume();
  motion_ = Motion::kRuns;
  vm_.report_running();
}

absl::Status Standstill::Apply() {
  const Motion next = requested();
  if (next != motion_) {
    // A vCPU that is parked in an access must be resumed before it can wait for the access.
    if (next == Motion::kRuns || motion_ == Motion::kPaused) Resume();
    if (next != Motion::kRuns) {
      const absl::Status stopped = next == Motion::kPaused ? vm_.pause() : vm_.hold();
      if (!stopped.ok()) {  // the vCPUs run
        vm_.continue_clock();
        motion_ = Motion::kRuns;
        vm_.report_running();
        return stopped;
      }
      // After all vCPUs have left the guest: none sees the time go back.
      if (motion_ == Motion::kRuns) vm_.stop_clock();
      motion_ = next;
    }
  }
  if (motion_ != Motion::kRuns) vm_.report_paused(reason());
  return absl::OkStatus();
}

std::string Standstill::reason() const {
  std::vector<std::string> reasons;
  for (const auto& [requester, why] : pauses_) reasons.push_back(why);
  for (const auto& [device, waits] : holds_) {
    if (pauses_.count(device) > 0) continue;
    reasons.push_back(absl::StrCat("the guest waits for device '", device, "'"));
  }
  return absl::StrJoin(reasons, ", ");
}

}  // namespace bulkhead::vmm
