#include "vmm/supervisor/spare.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/steady_time.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {
namespace {

// No access waits for a spare: the delays are long, and the tries have no limit.
constexpr RestartSpec kSpareRestarts = {.policy = RestartSpec::Policy::kAlways,
                                        .min_backoff = absl::Seconds(1),
                                        .max_backoff = absl::Minutes(1),
                                        .max_crashes = -1};

// The one that was taken begins to serve meanwhile, and needs the processors.
constexpr absl::Duration kPauseAfterUse = absl::Milliseconds(200);

// How often its liveness is checked, and how long it may be silent in all before it counts as hung.
// A call costs much more than a heartbeat through a channel, which it has not yet, and only waits
// there. The supervisor has other things to do, so it waits for an answer in several short waits.
constexpr absl::Duration kHeartbeatInterval = absl::Seconds(30);
constexpr absl::Duration kHeartbeatRetryInterval = absl::Milliseconds(200);
constexpr absl::Duration kMaxWait = absl::Milliseconds(500);
constexpr absl::Duration kMaxSilence = absl::Seconds(2);

}  // namespace

Spare::Spare(const ProcessStarter& starter, DeviceReport& report,
             std::function<absl::Status(const Candidate&)> check, std::function<double()> random)
    : starter_(starter),
      report_(report),
      check_(std::move(check)),
      policy_(kSpareRestarts, random),
      shortage_(std::move(random)) {}

void Spare::Tend(const ProgramFile& binary) {
  if (ready()) {
    CheckLiveness();
  } else {
    Prepare(binary);
  }
}

void Spare::Prepare(const ProgramFile& binary) {
  if (process_ == nullptr) {
    started_ = SteadyNow();
    absl::StatusOr<std::unique_ptr<DeviceProcess>> process = starter_.Start(binary);
    if (!process.ok()) return OnShortage(process.status());
    process_ = *std::move(process);
  }
  const absl::Duration left = started_ + starter_.timeout() - SteadyNow();
  absl::StatusOr<DeviceDescription> description =
      starter_.Ask(*process_, left, Attention::Urgency::kNews);
  if (absl::IsCancelled(description.status())) return;
  if (!description.ok()) return OnFailedStart(description.status());
  shortage_.End(SteadyNow());
  Candidate candidate = {std::move(process_), *std::move(description)};
  if (const absl::Status compatible = check_(candidate); !compatible.ok()) return Fail(compatible);
  Keep(std::move(candidate));
}

void Spare::Keep(Candidate candidate) {
  process_ = std::move(candidate.process);
  description_ = std::move(candidate.description);
  silence_ = absl::ZeroDuration();
  next_ = SteadyNow() + kHeartbeatInterval;
  report_.SetSpare(true);
}

void Spare::CheckLiveness() {
  const absl::Time asked = SteadyNow();
  const absl::Status answer = starter_.CheckLiveness(*process_, kMaxWait);
  const absl::Time now = SteadyNow();
  if (answer.ok() || absl::IsUnimplemented(answer)) {  // it answers, at any rate
    silence_ = absl::ZeroDuration();
    next_ = now + kHeartbeatInterval;
    return;
  }
  next_ = now + kHeartbeatRetryInterval;
  silence_ += now - asked;
  if (absl::IsCancelled(answer) && silence_ < kMaxSilence) return;
  if (!absl::IsDeadlineExceeded(answer) || silence_ >= kMaxSilence) {
    Fail(absl::DeadlineExceededError(absl::StrCat(
        "process ", process_->pid(), ": it did not answer its heartbeats: ", answer.message())));
  }
}

void Spare::OnFailedStart(const absl::Status& answer) {
  const absl::Status why = process_->ExplainFailure(AtStep("asked what it is", answer));
  absl::IsResourceExhausted(why) ? OnShortage(why) : Fail(why);
}

void Spare::OnShortage(const absl::Status& why) {
  if (!shortage_.lasts()) {
    LogWarning(absl::StrCat("the host cannot start a spare: ", why.message(),
                            "; the start is repeated until it succeeds"));
  }
  Drop();
  const absl::Time now = SteadyNow();
  next_ = now + std::max(shortage_.OnFailedTry(now), kSpareRestarts.min_backoff);
}

void Spare::OnExit() {
  if (!ready()) return OnFailedStart(absl::UnavailableError("it ended"));
  const absl::StatusOr<DeviceProcessEnd> end = process_->WaitForEnd(absl::Seconds(1));
  Fail(absl::UnavailableError(
      absl::StrCat("process ", process_->pid(), ": ", end.ok() ? end->reason : "it ended")));
}

void Spare::Fail(const absl::Status& why) {
  const absl::Time now = SteadyNow();
  const absl::Duration delay = policy_.OnEnd(now, now - started_, /*clean=*/false).delay;
  LogWarning(
      absl::StrCat("device '", starter_.device_name(), "': its spare failed: ", why.message()));
  Drop();
  next_ = now + std::max(delay, kSpareRestarts.min_backoff);
}

std::optional<Candidate> Spare::Take() {
  std::optional<Candidate> candidate;
  if (ready() && !exited()) candidate = Candidate{std::move(process_), *std::move(description_)};
  Drop();
  next_ = SteadyNow() + kPauseAfterUse;
  return candidate;
}

void Spare::PutBack(Candidate candidate) {
  Drop();
  Keep(std::move(candidate));
}

void Spare::Drop() {
  process_.reset();
  description_.reset();
  next_ = absl::InfinitePast();
  report_.SetSpare(false);
}

}  // namespace bulkhead::vmm
