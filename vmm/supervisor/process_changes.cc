// How one process of a device follows the other.
#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_client.h"
#include "vmm/supervisor/supervisor_thread.h"

namespace bulkhead::vmm {
namespace {

// How long a process may take to be dead once it was killed: milliseconds, but for one that sits
// in the kernel.
constexpr absl::Duration kDeathTimeout = absl::Seconds(2);
constexpr absl::Duration kQuiesceTimeout = absl::Seconds(2);
// For one that cannot come to rest, to apply what is in its channel.
constexpr absl::Duration kLastRequestsTimeout = absl::Milliseconds(500);
constexpr absl::Duration kChannelRetryInterval = absl::Milliseconds(100);
constexpr int kMaxQuickTries = 4;
// A spare that lives attaches within a millisecond.
constexpr absl::Duration kSpareAttachTimeout = absl::Milliseconds(100);

// Direct I/O outlives its process, by milliseconds as a rule. A successor that does it again must
// come after it. False: it takes longer.
constexpr char kEarlierIoInFlight[] = "waits for the I/O of its dead process, which has not ended";
bool AwaitEarlierIo(const DeviceEndpoints& endpoints) {
  constexpr absl::Duration kTimeout = absl::Milliseconds(100);
  constexpr absl::Duration kInterval = absl::Milliseconds(1);
  for (const absl::Time latest = SteadyNow() + kTimeout; SteadyNow() < latest;
       absl::SleepFor(kInterval)) {
    if (endpoints.EarlierIoHasEnded()) return true;
  }
  return false;
}

}  // namespace

absl::Status SupervisorThread::CheckFit(const Candidate& candidate, bool discard_state) const {
  DeviceDescription wanted = device_->description();
  // To start over, it need not understand what is left.
  wanted.state_version = discard_state ? candidate.description.state_version : state_version_;
  const std::string difference = Difference(wanted, candidate.description);
  if (difference.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the new process is another device than the one that the guest knows, by its ", difference));
}

absl::Status SupervisorThread::PrepareForSuccessor() {
  if (!AwaitEarlierIo(device_->endpoints())) return absl::AbortedError(kEarlierIoInFlight);
  if (device_->TakeMissedReset()) discard_state_ = discard_requests_ = true;
  if (generation_ > 0) {
    const absl::StatusOr<channel::SuccessorPlan> plan =
        device_->endpoints().channel().PrepareSuccessor(discard_requests_);
    if (absl::IsDeadlineExceeded(plan.status())) return absl::AbortedError(plan.status().message());
    if (!plan.ok()) return absl::ResourceExhaustedError(plan.status().message());
    if (!plan->violation.ok()) {
      LogWarning(absl::StrCat("device '", name_, "': ", plan->violation.message(), "; repaired"));
    }
    discard_requests_ = false;
  }
  // From here on everything that the guest does waits for the new process. What it did before, and
  // nobody was there, counts too.
  device_->ReopenAccesses();
  if (device_->reset_missed()) return absl::AbortedError("the guest has just reset it");
  if (discard_state_) {
    const absl::Status discarded = device_->endpoints().DiscardDurableState();
    if (!discarded.ok()) return absl::ResourceExhaustedError(discarded.message());
  }
  return absl::OkStatus();
}

absl::Status SupervisorThread::Attach(Candidate candidate, Urgency least,
                                      absl::StatusOr<Candidate>* beside) {
  channel::ChannelClient& channel = device_->endpoints().channel();
  const absl::Status before = channel.status();
  absl::Status prepared;
  // A guest that never ceases to reset has to wait a moment.
  int tries = 0;
  do {
    prepared = PrepareForSuccessor();
  } while (absl::IsAborted(prepared) && device_->reset_missed() && ++tries < kMaxQuickTries);
  absl::Status attached = prepared;
  if (prepared.ok()) {
    attached = AttachProcess(std::move(candidate), least, beside);
  } else {
    spare_.PutBack(std::move(candidate));  // it has done nothing wrong
  }
  // Accesses that did not wait before do not wait now either. (A breach of the protocol was the
  // last process's.)
  const bool failed =
      !before.ok() && !(absl::IsDataLoss(before) && access_policy_ != AccessPolicy::kAllOnes);
  if (!attached.ok() && failed) channel.Fail(absl::UnavailableError(before.message()));
  return attached;
}

absl::Status SupervisorThread::AttachProcess(Candidate candidate, Urgency least,
                                             absl::StatusOr<Candidate>* beside) {
  ++generation_;
  process_ = std::move(candidate.process);
  absl::Status attached;
  bool interrupted = false;
  const auto wait_for = [&](absl::FunctionRef<absl::Status()> step) {
    const Attention::Interruptible wait(
        *attention_, least, [this] { process_->Kill("killed, because it came too late"); });
    attached = step();
    interrupted = wait.interrupted();
  };
  wait_for([&] {
    return device_->Attach(*process_, generation_,
                           beside == nullptr ? options_.start_timeout : kSpareAttachTimeout);
  });
  if (absl::IsResourceExhausted(attached) && !interrupted) {
    // What the vmm lacks: the process has got nothing, and has done nothing wrong.
    spare_.PutBack({std::move(process_), std::move(candidate.description)});
    return absl::ResourceExhaustedError(absl::StrCat("device '", name_, "' (", binary_.path(),
                                                     "): attached: ", attached.message()));
  }
  discard_state_ = false;  // what is there from now on is the new process's
  if (beside != nullptr && absl::IsDeadlineExceeded(attached) && !interrupted) {
    // It hangs, or the host is slow: then it is there before another process is.
    *beside = starter_.StartCandidate(binary_, least);
    const absl::Duration longer =
        absl::IsResourceExhausted(beside->status()) ? options_.start_timeout : absl::ZeroDuration();
    wait_for([&] { return device_->AwaitAttached(*process_, generation_, longer); });
  }
  if (attached.ok() && !interrupted) {
    state_version_ = candidate.description.state_version;
    return absl::OkStatus();
  }
  if (beside != nullptr) process_->Kill("killed, because it did not attach in time");
  if (beside != nullptr && !process_->has_taken_offer()) {  // asked when it is killed
    // A spare that hangs. It has none of the descriptors, and once killed executes nothing that
    // could take them: so it need not be waited for, which may be in vain (a freezer's cgroup).
    const pid_t pid = process_->pid();
    process_.reset();
    if (interrupted) return absl::CancelledError("something else came first");
    return absl::DeadlineExceededError(
        absl::StrCat("device '", name_, "': process ", pid, " did not attach in time"));
  }
  const absl::Status why = process_->ExplainFailure(AtStep("attached", attached));
  // If it does not die, it keeps the descriptors, and nobody else gets them.
  if (process_->exited()) process_.reset();
  return interrupted ? absl::CancelledError("something else came first") : why;
}

void SupervisorThread::BeginServing() {
  const absl::Time now = SteadyNow();
  process_->PassOnOutput();
  report_.Serves(process_->pid(), generation_, binary_.path(), process_->isolation());
  if (state_ != v1::Device::STARTING) report_.Recovered(now - away_since_);
  served_since_ = now;
  next_try_ = absl::InfiniteFuture();
  if (const absl::Duration shortage = shortage_.End(now); shortage > absl::ZeroDuration()) {
    LogInfo(absl::StrCat("device '", name_, "': the host has what a process needs again, after ",
                         absl::FormatDuration(absl::Trunc(shortage, absl::Milliseconds(1)))));
  }
  heartbeats_.Begin(generation_);
  ComeBack();
  SetState(v1::Device::RUNNING, "");
}

std::optional<DeviceProcessEnd> SupervisorThread::Bury(bool planned) {
  heartbeats_.End();
  const absl::StatusOr<DeviceProcessEnd> end = process_->WaitForEnd(kDeathTimeout);
  if (!end.ok()) {
    LogError(absl::StrCat("device '", name_, "': process ", process_->pid(),
                          " does not end, although killed"));
    return std::nullopt;
  }
  const bool wanted =
      planned && (end->exit.signalled ? end->exit.code == SIGKILL : end->exit.code == 0);
  report_.Ended(process_->pid(), generation_, *end, /*expected=*/wanted);
  process_.reset();
  return *end;
}

bool SupervisorThread::Retire(absl::string_view reason) {
  const absl::Status at_rest = CallProcess(&ControlClient::Quiesce, kQuiesceTimeout);
  if (absl::IsUnimplemented(at_rest)) {
    process_->AskToEnd();
    process_->WaitForEnd(kLastRequestsTimeout).status().IgnoreError();
  } else if (!at_rest.ok()) {
    LogWarning(absl::StrCat("device '", name_, "' does not come to rest: ", at_rest.message()));
  }
  process_->Kill(reason);
  return Bury(/*planned=*/true).has_value();
}

void SupervisorThread::OnLoss() {
  if (state_ != v1::Device::RUNNING) {
    // It would not die when it was to be replaced, or stopped.
    if (Bury(/*planned=*/true).has_value() && state_ == v1::Device::RESTARTING)
      next_try_ = SteadyNow();
    return;
  }
  const absl::Time now = SteadyNow();
  GoAway("its process has ended");
  if (access_policy_ == AccessPolicy::kWait) {
    absence_->Begin(std::min(heartbeats_.silent_since(), now));  // whatever takes long here
  }
  const std::optional<DeviceProcessEnd> end = Bury(/*planned=*/false);
  away_since_ = std::min(heartbeats_.silent_since(), end.has_value() ? end->time : now);
  const std::string what =
      end.has_value() ? end->reason : "its process does not die, although killed";
  const bool clean = end.has_value() && !end->exit.signalled && end->exit.code == 0;
  report_.Lost(what);
  FollowPolicy(now - served_since_, clean, what);
}

void SupervisorThread::OnFailedStart(const absl::Status& why) {
  LogError(why.message());
  FollowPolicy(absl::ZeroDuration(), /*clean=*/false, WithoutLastLines(why.message()));
}

void SupervisorThread::OnShortage(const absl::Status& why) {
  if (!shortage_.lasts()) {
    LogError(absl::StrCat("the host lacks what a process needs: ", why.message(),
                          "; it is tried until that works"));
    report_.PolicyActs("waits until the host has what a process needs");
  }
  const absl::Time now = SteadyNow();
  const absl::Duration delay = shortage_.OnFailedTry(now);
  next_try_ = now + delay;
  SetState(v1::Device::RESTARTING,
           absl::StrCat("the host lacks what a process needs: ", WithoutLastLines(why.message()),
                        "; next try in ",
                        absl::FormatDuration(absl::Trunc(delay, absl::Milliseconds(1)))));
}

void SupervisorThread::FollowPolicy(absl::Duration served, bool clean, const std::string& what) {
  const absl::Time now = SteadyNow();
  const RestartPolicy::Decision decision = policy_.OnEnd(now, served, clean);
  switch (decision.action) {
    case RestartPolicy::Decision::Action::kRestart:
      next_try_ = now + decision.delay;
      SetState(v1::Device::RESTARTING,
               decision.delay > absl::ZeroDuration()
                   ? absl::StrCat(
                         what, ", next try in ",
                         absl::FormatDuration(absl::Trunc(decision.delay, absl::Milliseconds(1))))
                   : what);
      return;
    case RestartPolicy::Decision::Action::kStop:
      spare_.Drop();
      FailAccesses(what);
      SetState(v1::Device::STOPPED, absl::StrCat(what, ": ", decision.reason));
      return;
    case RestartPolicy::Decision::Action::kFail:
      spare_.Drop();
      if (access_policy_ != AccessPolicy::kPauseVm) FailAccesses(what);
      report_.PolicyActs(absl::StrCat("gives up: ", decision.reason));
      LogError(absl::StrCat("device '", name_, "' stays away: ", decision.reason));
      SetState(v1::Device::FAILED, absl::StrCat(what, ": ", decision.reason));
  }
}

void SupervisorThread::TryRestart(Urgency least) {
  next_try_ = absl::InfiniteFuture();
  if (process_ != nullptr) return;  // it does not die; OnLoss() when it does
  if (!AwaitEarlierIo(device_->endpoints())) {
    if (state_reason_ != kEarlierIoInFlight) {
      LogWarning(absl::StrCat("device '", name_, "': ", kEarlierIoInFlight));
      SetState(v1::Device::RESTARTING, kEarlierIoInFlight);
    }
    next_try_ = SteadyNow() + kChannelRetryInterval;
    return;
  }
  absl::StatusOr<Candidate> next = absl::UnknownError("");
  if (std::optional<Candidate> spare = spare_.Take(); spare.has_value() && FitsNow(*spare)) {
    const absl::Status attached = Attach(*std::move(spare), least, &next);
    if (attached.ok()) return BeginServing();
    // Undone by what would undo a fresh process as well (then it waits on), or it is not dead.
    if (absl::IsCancelled(attached) || process_ != nullptr || spare_.ready()) {
      return AfterFailedTry(attached);
    }
    LogWarning(absl::StrCat(attached.message(), "; it was a spare, and another process follows"));
  }
  if (absl::IsUnknown(next.status())) next = starter_.StartCandidate(binary_, least);
  absl::Status status = next.status();
  if (status.ok()) {
    status = CheckFit(*next, discard_state_);
    if (!status.ok()) status = next->process->ExplainFailure(status);
  }
  if (status.ok()) status = Attach(*std::move(next), least);
  if (status.ok()) {
    BeginServing();
  } else {
    AfterFailedTry(status);
  }
}

bool SupervisorThread::FitsNow(const Candidate& spare) const {
  const absl::Status fit = CheckFit(spare, discard_state_);
  if (!fit.ok()) LogWarning(absl::StrCat("device '", name_, "': its spare: ", fit.message()));
  return fit.ok();
}

void SupervisorThread::AfterFailedTry(const absl::Status& why) {
  if (absl::IsCancelled(why)) {
    next_try_ = SteadyNow();
  } else if (absl::IsAborted(why)) {
    next_try_ = SteadyNow() + kChannelRetryInterval;
  } else if (absl::IsResourceExhausted(why)) {
    OnShortage(why);
  } else {
    OnFailedStart(why);
  }
}

void SupervisorThread::GoAway(const std::string& why) {
  switch (access_policy_) {
    case AccessPolicy::kWait:
      return;
    case AccessPolicy::kAllOnes:
      FailAccesses(why);
      return;
    case AccessPolicy::kPauseVm:
      if (vm_paused_) return;
      vm_paused_ = true;
      report_.PolicyActs("pauses the VM until the device is back");
      options_.pause_vm(name_);
  }
}

void SupervisorThread::FailAccesses(const std::string& why) {
  device_->endpoints().channel().Fail(
      absl::UnavailableError(absl::StrCat("device '", name_, "': ", why)));
  if (!vm_paused_) return;
  vm_paused_ = false;
  options_.resume_vm(name_);
}

void SupervisorThread::ComeBack() {
  if (device_->function_state_missed()) device_->TellFunctionState();
  if (!vm_paused_) return;
  vm_paused_ = false;
  options_.resume_vm(name_);
}

}  // namespace bulkhead::vmm
