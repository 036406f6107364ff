#include "vmm/vm/vm_state.h"

#include <utility>

#include "absl/time/clock.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

void SetDuration(absl::Duration duration, google::protobuf::Duration& out) {
  out.set_seconds(absl::ToInt64Seconds(duration));
  out.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(duration - absl::Seconds(absl::ToInt64Seconds(duration)))));
}

void SetTimestamp(absl::Time time, google::protobuf::Timestamp& out) {
  const timespec parts = absl::ToTimespec(time);
  out.set_seconds(parts.tv_sec);
  out.set_nanos(static_cast<int32_t>(parts.tv_nsec));
}

}  // namespace

VmState::VmState(EventLog& events)
    : events_(events), start_time_(absl::Now()), start_(SteadyNow()) {}

void VmState::NoteBoot() {
  absl::MutexLock lock(&mutex_);
  boot_ = SteadyNow();
}

void VmState::SetRunning() { Set(v1::VmStatus::RUNNING, ""); }

void VmState::SetPaused(absl::string_view reason) { Set(v1::VmStatus::PAUSED, reason); }

void VmState::SetRebooting(absl::string_view reason) {
  {
    absl::MutexLock lock(&mutex_);
    ++reboots_;
  }
  v1::Event event;
  event.mutable_guest_reset()->set_reason(std::string(reason));
  events_.Append(std::move(event));
  Set(v1::VmStatus::REBOOTING, reason);
}

void VmState::SetEnding(absl::string_view reason) { Set(v1::VmStatus::ENDING, reason); }

void VmState::Set(v1::VmStatus::State state, absl::string_view reason) {
  v1::Event event;
  event.mutable_vm_state()->set_state(state);
  event.mutable_vm_state()->set_reason(std::string(reason));
  {
    absl::MutexLock lock(&mutex_);
    if (state == state_ && reason == reason_) return;
    state_ = state;
    reason_ = std::string(reason);
  }
  // Not under the lock: a listener may call Describe(). One thread changes the state, so the events
  // have the order of the changes.
  events_.Append(std::move(event));
}

void VmState::Describe(v1::VmStatus& status) const {
  const absl::Time now = SteadyNow();
  absl::MutexLock lock(&mutex_);
  status.set_state(state_);
  if (state_ == v1::VmStatus::PAUSED) status.set_pause_reason(reason_);
  if (state_ == v1::VmStatus::ENDING) status.set_exit_reason(reason_);
  SetTimestamp(start_time_, *status.mutable_start_time());
  SetDuration(now - start_, *status.mutable_uptime());
  if (boot_ != absl::InfinitePast()) SetDuration(now - boot_, *status.mutable_guest_uptime());
  status.set_reboots(reboots_);
}

}  // namespace bulkhead::vmm
