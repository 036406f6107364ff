#include "vmm/supervisor/attached_process.h"

#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_client.h"

namespace bulkhead::vmm {
namespace {

using Event = SupervisionEvent;

// How long a process may take to be dead once it was killed: milliseconds, but for one that sits
// in the kernel.
constexpr absl::Duration kDeathTimeout = absl::Seconds(2);
constexpr absl::Duration kQuiesceTimeout = absl::Seconds(2);
// For one that cannot quiesce, to apply what is in its channel.
constexpr absl::Duration kLastRequestsTimeout = absl::Milliseconds(500);
// For one that is asked to end.
constexpr absl::Duration kEndTimeout = absl::Milliseconds(500);
constexpr int kMaxQuickTries = 4;
// A spare that lives attaches within a millisecond.
constexpr absl::Duration kSpareAttachTimeout = absl::Milliseconds(100);

}  // namespace

AttachedProcess::AttachedProcess(const DeviceSpec& spec, RemoteDevice& device,
                                 const ProcessStarter& starter,
                                 std::shared_ptr<Attention> attention, Spare& spare,
                                 DeviceReport& report, Supervision& supervision,
                                 uint32_t state_version)
    : name_(spec.name),
      access_policy_(spec.access_policy),
      device_(device),
      starter_(starter),
      attention_(std::move(attention)),
      spare_(spare),
      report_(report),
      supervision_(supervision),
      state_version_(state_version) {}

absl::Status AttachedProcess::CheckCompatible(const Candidate& candidate,
                                              bool discard_state) const {
  DeviceDescription wanted = device_.description();
  // A process that starts anew need not know the version of the saved state.
  wanted.state_version = discard_state ? candidate.description.state_version : state_version_;
  const std::string difference = Difference(wanted, candidate.description);
  if (difference.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the new process is not the device that the guest knows: different ", difference));
}

absl::Status AttachedProcess::AwaitEarlierIo() const {
  // Direct I/O outlives its process, by milliseconds as a rule. A successor that does it again must
  // come after it.
  constexpr absl::Duration kTimeout = absl::Milliseconds(100);
  constexpr absl::Duration kInterval = absl::Milliseconds(1);
  // At least one look: on a busy host the time may be up before the first one.
  for (const absl::Time latest = SteadyNow() + kTimeout;; absl::SleepFor(kInterval)) {
    if (device_.endpoints().EarlierIoHasEnded()) return absl::OkStatus();
    if (SteadyNow() >= latest) break;
  }
  return absl::AbortedError("waits for the I/O of its dead process, which has not ended");
}

absl::Status AttachedProcess::PrepareChannel() {
  channel_before_ = device_.endpoints().channel().status();
  absl::Status prepared;
  // A guest that never ceases to reset has to wait a moment.
  int tries = 0;
  do {
    prepared = TryPrepareChannel();
  } while (absl::IsAborted(prepared) && device_.reset_missed() && ++tries < kMaxQuickTries);
  return FailAgain(prepared);
}

absl::Status AttachedProcess::TryPrepareChannel() {
  RETURN_IF_ERROR(AwaitEarlierIo());
  if (device_.ConsumeMissedReset()) supervision_.On(Event::kGuestReset);
  if (generation_ > 0) {
    const absl::StatusOr<channel::SuccessorPlan> plan =
        device_.endpoints().channel().PrepareSuccessor(supervision_.discard_requests());
    if (absl::IsDeadlineExceeded(plan.status())) return absl::AbortedError(plan.status().message());
    if (!plan.ok()) return absl::ResourceExhaustedError(plan.status().message());
    if (!plan->violation.ok()) {
      LogWarning(absl::StrCat("device '", name_, "': ", plan->violation.message(), "; repaired"));
    }
    supervision_.On(Event::kRequestsDiscarded);
  }
  // From here on accesses wait for the new process. A reset that was missed before that must hold.
  device_.ReopenAccesses();
  if (device_.reset_missed()) return absl::AbortedError("the guest has just reset it");
  if (supervision_.discard_state()) {
    const absl::Status discarded = device_.endpoints().DiscardDurableState();
    if (!discarded.ok()) return absl::ResourceExhaustedError(discarded.message());
  }
  return absl::OkStatus();
}

absl::Status AttachedProcess::FailAgain(absl::Status status) {
  // (A breach of the protocol was the last process's.)
  const bool failed = !channel_before_.ok() && !(absl::IsDataLoss(channel_before_) &&
                                                 access_policy_ != AccessPolicy::kAllOnes);
  if (!status.ok() && failed) {
    device_.endpoints().channel().Fail(absl::UnavailableError(channel_before_.message()));
  }
  return status;
}

absl::Status AttachedProcess::Attach(Candidate candidate, Urgency least, const ProgramFile& binary,
                                     std::optional<absl::StatusOr<Candidate>>* beside) {
  const absl::Status attached = TryAttach(std::move(candidate), least, binary, beside);
  if (!exists()) supervision_.On(Event::kProcessGone);
  return FailAgain(attached);
}

absl::Status AttachedProcess::TryAttach(Candidate candidate, Urgency least,
                                        const ProgramFile& binary,
                                        std::optional<absl::StatusOr<Candidate>>* beside) {
  ++generation_;
  process_ = std::move(candidate.process);
  absl::Status attached;
  bool interrupted = false;
  const auto wait_for = [&](absl::FunctionRef<absl::Status()> step) {
    const Attention::Interruptible wait(*attention_, least, [this] {
      process_->Kill("killed, because its attachment was interrupted");
    });
    attached = step();
    interrupted = wait.interrupted();
  };
  wait_for([&] {
    return device_.Attach(*process_, generation_,
                          beside == nullptr ? starter_.timeout() : kSpareAttachTimeout);
  });
  if (absl::IsResourceExhausted(attached) && !interrupted) {
    // The vmm lacks something: the process has no descriptors, and is not at fault.
    spare_.PutBack({std::move(process_), std::move(candidate.description)});
    return absl::ResourceExhaustedError(
        absl::StrCat("device '", name_, "' (", binary.path(), "): attached: ", attached.message()));
  }
  supervision_.On(Event::kHandedOver);
  if (beside != nullptr && absl::IsDeadlineExceeded(attached) && !interrupted) {
    // It hangs, or the host is slow. Then it attaches before another process has started.
    *beside = starter_.StartCandidate(binary, least);
    const absl::Duration longer =
        absl::IsResourceExhausted((*beside)->status()) ? starter_.timeout() : absl::ZeroDuration();
    wait_for([&] { return device_.AwaitAttached(*process_, generation_, longer); });
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
    if (interrupted) return absl::CancelledError("the attachment was interrupted");
    return absl::DeadlineExceededError(
        absl::StrCat("device '", name_, "': process ", pid, " did not attach in time"));
  }
  const absl::Status why = process_->ExplainFailure(AtStep("attached", attached));
  // If it does not die, it keeps the descriptors, and no other process gets them.
  if (process_->exited()) process_.reset();
  return interrupted ? absl::CancelledError("the attachment was interrupted") : why;
}

absl::Status AttachedProcess::Call(absl::Status (ControlClient::*method)(ControlCall&),
                                   absl::Duration timeout) {
  ControlCall call(timeout);
  const Attention::Interruptible wait(*attention_, Urgency::kEnd, [&call] { call.Cancel(); });
  return (process_->control().*method)(call);
}

void AttachedProcess::Quiesce() {
  const absl::Status quiesced = Call(&ControlClient::Quiesce, kQuiesceTimeout);
  if (absl::IsUnimplemented(quiesced)) {
    process_->RequestExit();
    process_->WaitForEnd(kLastRequestsTimeout).status().IgnoreError();
  } else if (!quiesced.ok()) {
    LogWarning(absl::StrCat("device '", name_, "' does not quiesce: ", quiesced.message()));
  }
}

std::optional<DeviceProcessEnd> AttachedProcess::Reap(bool planned) {
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

void AttachedProcess::End() {
  process_->RequestExit();
  if (!process_->WaitForEnd(kEndTimeout).ok()) {
    process_->Kill("killed, because it did not end when asked to");
  }
  Reap(/*planned=*/true);
}

}  // namespace bulkhead::vmm
