#include "vmm/supervisor/outage.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

std::string ForPeople(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1)));
}

}  // namespace

Outage::Outage(const DeviceSpec& spec, DeviceReport& report, std::function<double()> random)
    : name_(spec.name),
      access_policy_(spec.access_policy),
      report_(report),
      policy_(spec.restart, random),
      shortage_(std::move(random)) {}

void Outage::Begin(absl::Time silent_since) {
  const absl::Time now = SteadyNow();
  served_ = now - served_since_;
  away_since_ = std::min(silent_since, now);
  cause_ = "its process has ended";
}

void Outage::OnReaped(absl::Time silent_since, const std::optional<DeviceProcessEnd>& end) {
  ended_cleanly_ = end.has_value() && !end->exit.signalled && end->exit.code == 0;
  cause_ = end.has_value() ? end->reason : "its process does not die, although killed";
  if (end.has_value()) away_since_ = std::min(silent_since, end->time);
}

void Outage::OnFailedStart(const absl::Status& why) {
  LogError(why.message());
  served_ = absl::ZeroDuration();
  ended_cleanly_ = false;
  cause_ = std::string(WithoutLastLines(why.message()));
}

void Outage::OnTakenAway() {
  away_since_ = SteadyNow();
  ReportLoss();
}

void Outage::End() {
  const absl::Time now = SteadyNow();
  if (state_ != v1::Device::STARTING) report_.Recovered(now - away_since_);
  served_since_ = now;
  StopTimer();
  reason_ = "";
  if (const absl::Duration shortage = shortage_.End(now); shortage > absl::ZeroDuration()) {
    LogInfo(absl::StrCat("device '", name_, "': the host has what a process needs again, after ",
                         ForPeople(shortage)));
  }
}

SupervisionEvent Outage::AskPolicy() {
  decision_ = policy_.OnEnd(SteadyNow(), served_, ended_cleanly_);
  reason_ = absl::StrCat(cause_, ": ", decision_.reason);
  switch (decision_.action) {
    case RestartPolicy::Decision::Action::kRestart:
      return SupervisionEvent::kPolicyRestarts;
    case RestartPolicy::Decision::Action::kStop:
      return SupervisionEvent::kPolicyStops;
    case RestartPolicy::Decision::Action::kFail:
      break;
  }
  return SupervisionEvent::kPolicyFails;
}

void Outage::RetryAfter(absl::Duration delay) { next_try_ = SteadyNow() + delay; }

void Outage::RetryAfterBackoff() {
  RetryAfter(decision_.delay);
  reason_ = cause_;
  if (decision_.delay > absl::ZeroDuration()) {
    absl::StrAppend(&reason_, ", next try in ", ForPeople(decision_.delay));
  }
}

void Outage::RetryAfterShortage(const absl::Status& why) {
  if (!shortage_.lasts()) {
    LogError(absl::StrCat("the host lacks what a process needs: ", why.message(),
                          "; the start is repeated until it succeeds"));
    report_.PolicyActs("waits until the host has what a process needs");
  }
  const absl::Duration delay = shortage_.OnFailedTry(SteadyNow());
  RetryAfter(delay);
  reason_ = absl::StrCat("the host lacks what a process needs: ", WithoutLastLines(why.message()),
                         "; next try in ", ForPeople(delay));
}

void Outage::ReportFailed() {
  report_.PolicyActs(absl::StrCat("gives up: ", decision_.reason));
  LogError(absl::StrCat("device '", name_, "' has failed: ", decision_.reason));
  ReportState(v1::Device::FAILED);
}

void Outage::ReportState(v1::Device::State state) {
  state_ = state;
  state_reason_ = reason_;
  report_.SetState(state, reason_);
  if (state == v1::Device::RESTARTING && access_policy_ == AccessPolicy::kWait) {
    absence_->Begin(away_since_);
  } else {
    absence_->End();
  }
}

}  // namespace bulkhead::vmm
