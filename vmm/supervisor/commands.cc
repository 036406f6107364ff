// What a supervisor does when it is told to.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_client.h"
#include "vmm/supervisor/supervisor_thread.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kResetTimeout = absl::Seconds(5);

absl::Status Ending() { return absl::UnavailableError("the VM ends"); }

}  // namespace

absl::Status SupervisorThread::Perform(const Command& command) {
  switch (command.kind) {
    case Command::Kind::kRestart:
      return Restart(command.binary, command.discard_state);
    case Command::Kind::kReset:
      return Reset("a client", /*discard_requests=*/false);
    case Command::Kind::kResetForReboot:
      device_->ForgetFunctionState();
      return Reset("the guest's reboot", /*discard_requests=*/true);
    case Command::Kind::kStop:
      return Stop();
    case Command::Kind::kStart:
      return Start();
  }
  return absl::InternalError("no such command");
}

absl::Status SupervisorThread::Restart(const std::string& path, bool discard_state) {
  ProgramFile binary = binary_;
  if (!path.empty()) {
    absl::StatusOr<ProgramFile> opened = ProgramFile::OpenWithin(path, starter_.timeout());
    if (!opened.ok()) return Unfit(opened.status());
    binary = *std::move(opened);
  }
  absl::StatusOr<Candidate> next = StartSuccessor(binary);
  if (!next.ok()) return Unfit(next.status());
  if (const absl::Status fit = CheckFit(*next, discard_state); !fit.ok()) {
    return Unfit(next->process->ExplainFailure(fit));
  }

  // From here on the old process goes. What was asked for holds whenever it is dead.
  const ProgramFile previous = std::exchange(binary_, std::move(binary));
  spare_.Drop();  // it may be of another binary, or of what that was before
  if (discard_state) {
    discard_state_ = true;
    // Nobody waits for what is still in the channel of a device that is away for good, and it may
    // be what it died of.
    discard_requests_ |= !device_->endpoints().channel().status().ok();
  }
  const std::string cause = "asked by a client";
  policy_.Forget();
  if (state_ == v1::Device::RUNNING) {
    away_since_ = SteadyNow();
    report_.Lost(cause);
  }
  next_try_ = absl::InfiniteFuture();
  SetState(v1::Device::RESTARTING, cause);
  if (process_ != nullptr && !Retire("ended, to be replaced")) {
    GoAway("its process does not die");
    return absl::DeadlineExceededError(
        "its process does not die; the device is restarted as was asked as soon as it is dead");
  }
  absl::Status status = Attach(*std::move(next), Urgency::kEnd);
  if (status.ok()) {
    BeginServing();
    return absl::OkStatus();
  }
  if (ending()) return Ending();
  GoAway("its new process does not serve");
  const bool discarded = discard_state && !discard_state_;
  discard_state_ |= discard_state;  // what the new process has left is of its version
  if (absl::IsAborted(status) || absl::IsResourceExhausted(status)) {
    // Any other binary's process would have met with the same.
    LogWarning(absl::StrCat("device '", name_, "' is not restarted yet: ", status.message()));
    SetState(v1::Device::RESTARTING, WithoutLastLines(status.message()));
    AfterFailedTry(status);
    return absl::DeadlineExceededError(
        absl::StrCat(WithoutLastLines(status.message()),
                     "; the device is restarted as was asked as soon as that is over"));
  }
  binary_ = previous;
  TryRestart(Urgency::kEnd);  // as it was before
  const absl::Status unfit = Unfit(status);
  if (!discarded) return unfit;
  return absl::Status(unfit.code(),
                      absl::StrCat(unfit.message(), "; its state is discarded all the same"));
}

absl::StatusOr<Candidate> SupervisorThread::StartSuccessor(const ProgramFile& binary) {
  Candidate candidate;
  ASSIGN_OR_RETURN(candidate.process, starter_.Start(binary));
  const absl::Time deadline = SteadyNow() + starter_.timeout();
  while (true) {
    // The old one may die meanwhile, and that is to be noticed.
    absl::StatusOr<DeviceDescription> description =
        starter_.Ask(*candidate.process, deadline - SteadyNow(), Urgency::kNews);
    if (description.ok()) {
      candidate.description = *std::move(description);
      return candidate;
    }
    if (!absl::IsCancelled(description.status())) {
      return candidate.process->ExplainFailure(AtStep("asked what it is", description.status()));
    }
    attention_->Take();
    if (ending()) return Ending();
    if (process_ != nullptr && process_->exited()) OnLoss();
  }
}

absl::Status SupervisorThread::Unfit(const absl::Status& why) const {
  if (ending()) return Ending();
  std::string what = absl::StrCat("it is ", v1::Device::State_Name(state_), ": ", state_reason_);
  if (state_ == v1::Device::RUNNING) {
    what = absl::StrCat("process ", process_->pid(), " of ", binary_.path(), " serves");
  }
  LogError(why.message());
  return absl::FailedPreconditionError(absl::StrCat(WithoutLastLines(why.message()), "; ", what));
}

absl::Status SupervisorThread::Reset(absl::string_view by, bool discard_requests) {
  if (state_ == v1::Device::RUNNING) {
    const absl::Status reset = CallProcess(&ControlClient::Reset, kResetTimeout);
    if (ending()) return Ending();
    if (reset.ok()) {
      device_->TellFunctionState();
      report_.WasReset(by);
      return absl::OkStatus();
    }
    process_->Kill(absl::StrCat("killed, because it could not be reset: ", reset.message()));
    OnLoss();
  }
  report_.WasReset(by);
  return DiscardNow(discard_requests);
}

absl::Status SupervisorThread::DiscardNow(bool discard_requests) {
  discard_state_ = true;
  discard_requests_ |= discard_requests;
  if (process_ != nullptr) {
    return absl::DeadlineExceededError(
        "its process does not die; its successor starts as after power-on");
  }
  if (discard_requests_) {
    RETURN_IF_ERROR(
        device_->endpoints().channel().PrepareSuccessor(/*discard_requests=*/true).status());
    discard_requests_ = false;
  }
  RETURN_IF_ERROR(device_->endpoints().DiscardDurableState());
  discard_state_ = false;
  return absl::OkStatus();
}

absl::Status SupervisorThread::Stop() {
  spare_.Drop();
  if (state_ == v1::Device::STOPPED) return absl::OkStatus();
  const std::string cause = "stopped by a client";
  if (state_ == v1::Device::RUNNING) {
    away_since_ = SteadyNow();
    report_.Lost(cause);
  }
  next_try_ = absl::InfiniteFuture();
  const bool dead = process_ == nullptr || Retire(cause);
  FailAccesses(cause);
  SetState(v1::Device::STOPPED, cause);
  if (dead) return absl::OkStatus();
  return absl::DeadlineExceededError("its process does not die, although killed");
}

absl::Status SupervisorThread::Start() {
  if (state_ == v1::Device::RUNNING) return absl::OkStatus();
  policy_.Forget();
  SetState(v1::Device::RESTARTING, "started by a client");
  TryRestart(Urgency::kEnd);
  if (ending()) return Ending();
  if (state_ == v1::Device::RUNNING) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("it does not start: ", state_reason_));
}

}  // namespace bulkhead::vmm
