#include "vmm/supervisor/supervisor_actions.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_client.h"
#include "proto/vm_control.pb.h"
#include "vmm/process/control_client.h"
#include "vmm/process/device_process.h"

namespace bulkhead::vmm {
namespace {

using State = SupervisionState;

constexpr absl::Duration kResetTimeout = absl::Seconds(5);
constexpr absl::Duration kChannelRetryInterval = absl::Milliseconds(100);
constexpr absl::Duration kMetricsTimeout = absl::Milliseconds(300);
// A call that gRPC does not end in this time costs the process its life: the host may be slow. Less
// where something interrupts it: see ControlCall::Cancel().
constexpr absl::Duration kMetricsGrace = absl::Seconds(4);
constexpr char kDoesNotDie[] = "its process does not die, although killed";

// Of a command that is obeyed as soon as `obstacle` is over.
absl::Status NotYetError(absl::string_view device, SupervisionEvent command,
                         const absl::Status& obstacle) {
  switch (command) {
    case SupervisionEvent::kStop:
      return absl::DeadlineExceededError(
          absl::StrCat(kDoesNotDie, "; the device counts as stopped"));
    case SupervisionEvent::kReset:
    case SupervisionEvent::kResetForReboot:
      return absl::DeadlineExceededError(
          "its process does not die; its successor starts as after power-on");
    default:
      LogWarning(absl::StrCat("device '", device, "' is not restarted yet: ", obstacle.message()));
      return absl::DeadlineExceededError(
          absl::StrCat(WithoutLastLines(obstacle.message()),
                       "; the device restarts as asked once that is over"));
  }
}

// The first process of a device waits for its back end, which may open an image, for 30 s
// (devices/vhost_user).
constexpr absl::Duration kStartTimeoutWithBackEnd = absl::Seconds(45);

absl::Duration StartTimeout(const DeviceSpec& spec, const SupervisorOptions& options) {
  for (const ResourceSpec& resource : spec.resources) {
    if (!resource.socket_path.empty() || resource.socket_anchor != nullptr) {
      return std::max(options.start_timeout, kStartTimeoutWithBackEnd);
    }
  }
  return options.start_timeout;
}

}  // namespace

SupervisorActions::SupervisorActions(const DeviceSpec& spec, ProcessMonitor& monitor,
                                     const SupervisorOptions& options,
                                     std::shared_ptr<Attention> attention,
                                     const CommandQueue& commands, Supervision& supervision,
                                     DeviceClock& clock)
    : name_(spec.name),
      options_(options),
      attention_(std::move(attention)),
      commands_(commands),
      supervision_(supervision),
      start_timeout_(StartTimeout(spec, options)),
      starter_(monitor, attention_, spec.name, spec.args, spec.sandbox,
               SupervisorOptions::kFirstStart * start_timeout_),
      report_(spec, *options.events),
      random_(static_cast<unsigned>(absl::ToUnixNanos(SteadyNow()) ^ getpid())),
      outage_(spec, report_, [this] { return std::generate_canonical<double, 32>(random_); }),
      heartbeats_(spec.heartbeat, spec.access_timeout, clock, attention_, report_),
      spare_(
          starter_, report_,
          [this](const Candidate& candidate) {
            return attached_->CheckCompatible(candidate, false);
          },
          [this] { return std::generate_canonical<double, 32>(random_); }),
      next_(starter_, spare_, spec.binary, spec.binary_folders) {}

absl::Status SupervisorActions::CreateDevice(DeviceSpec& spec, const GuestRam& ram) {
  ASSIGN_OR_RETURN(Candidate first, starter_.StartCandidate(next_.binary(), Urgency::kEnd));
  RemoteDeviceOptions options;
  options.vcpus = options_.vcpus;
  options.trace = options_.trace;
  options.park = options_.park;
  options.on_slow_access = [name = name_, hold = options_.hold_vm](bool slow) { hold(name, slow); };
  options.on_failure = [attention = attention_] { attention->Demand(Urgency::kNews); };
  absl::StatusOr<std::unique_ptr<RemoteDevice>> device =
      RemoteDevice::Create(spec, first.description, ram, std::move(options));
  if (!device.ok()) return first.process->ExplainFailure(device.status());
  device_ = *std::move(device);
  absl::StatusOr<std::unique_ptr<Absence>> absence = Absence::Create(
      {.timeout = spec.access_timeout,
       .is_used = [device = device_.get()] { return device->masters_bus(); },
       .awaits_back_end =
           [device = device_.get(), holds = spec.access_policy == AccessPolicy::kWait] {
             return holds && device->awaits_back_end();
           },
       .hold = [name = name_, hold = options_.hold_vm](bool held) { hold(name, held); }});
  if (!absence.ok()) return first.process->ExplainFailure(absence.status());
  absence_ = *std::move(absence);
  outage_.SetAbsence(absence_.get());
  report_.SetDescription(device_->description());
  attached_ =
      std::make_unique<AttachedProcess>(spec, *device_, starter_, attention_, spare_, report_,
                                        supervision_, first.description.state_version);
  next_.Set(std::move(first));
  return absl::OkStatus();
}

bool SupervisorActions::FetchMetrics(std::string& hang) {
  ControlClient& process = attached_->process().control();
  ControlCall call(kMetricsTimeout, kMetricsGrace);
  // Not by news, as each heartbeat of a busy device is: on a slow host an interruption may cost the
  // process its connection. The death of the process ends the call.
  const Attention::Interruptible wait(*attention_, Urgency::kCommand, [&call] { call.Cancel(); });
  const absl::StatusOr<v1::DeviceMetrics> metrics = process.GetMetrics(call);
  if (metrics.ok()) {
    report_.SetMetrics(*metrics);
  } else if (!call.cancelled() && !attached_->exited() && !metrics_missed_) {
    metrics_missed_ = true;
    LogWarning(absl::StrCat("device '", name_,
                            "' does not tell its metrics: ", metrics.status().message()));
  }
  hang = std::string(process.why_cut());
  return !call.cancelled();
}

void SupervisorActions::SetArgs(std::vector<std::string> args) {
  report_.SetArgs(args);
  starter_.SetArgs(std::move(args));
  spare_.Drop();
}

void SupervisorActions::ChangeArgs(std::vector<std::string> args) {
  previous_args_ = starter_.args();
  SetArgs(std::move(args));
}

void SupervisorActions::RevertArgs() {
  if (previous_args_.has_value()) SetArgs(*std::exchange(previous_args_, std::nullopt));
}

void SupervisorActions::OnLoss() {
  if (supervision_.state() == State::kServing) outage_.Begin(heartbeats_.silent_since());
}

void SupervisorActions::OnMisbehaviour(absl::string_view how) {
  OnLoss();
  kill_reason_ = absl::StrCat("killed, because ", how);
}

void SupervisorActions::OnCommand(SupervisorCommand command) {
  command_ = std::move(command);
  if (command_->event == Event::kResetForReboot) device_->ForgetFunctionState();
  if (command_->event == Event::kStart) outage_.SetReason("started by a client");
  if (command_->event == Event::kStop) {
    kill_reason_ = "stopped by a client";
    outage_.SetCause(kill_reason_);
    outage_.SetReason(kill_reason_);
  }
}

std::optional<SupervisionEvent> SupervisorActions::CarryOut(Action action) {
  switch (action) {
    case Action::kReap:
      return Reap();
    case Action::kAskPolicy:
      return outage_.AskPolicy();
    case Action::kAwaitEarlierIo:
      return AwaitEarlierIo();
    case Action::kTakeSpare:
      return next_.TakeSpare(*attached_, supervision_.discard_state()) ? Event::kSpareTaken
                                                                       : Event::kNoSpare;
    case Action::kStartProcess:
      return StartProcess();
    case Action::kPrepareChannel:
      return PrepareChannel();
    case Action::kAttach:
      return Attach();
    case Action::kStartSuccessor:
      return StartSuccessor();
    case Action::kCallReset:
      return CallReset();
    case Action::kDiscard:
      return Discard();

    case Action::kKill:
      attached_->process().Kill(kill_reason_);
      return std::nullopt;
    case Action::kQuiesce:
      attached_->Quiesce();
      return std::nullopt;
    case Action::kEndProcess:
      heartbeats_.End();
      attached_->End();
      return std::nullopt;
    case Action::kBeginServing:
      BeginServing();
      return std::nullopt;
    case Action::kAdoptBinary:
      AdoptBinary();
      return std::nullopt;
    case Action::kRevertBinary:
      next_.RevertBinary();
      RevertArgs();  // the process that follows is started before the answer
      rejection_ = failure_;
      return std::nullopt;
    case Action::kForgetFailures:
      outage_.ForgetFailures();
      return std::nullopt;
    case Action::kDropSpare:
      spare_.Drop();
      return std::nullopt;

    case Action::kBeginAbsence:
      outage_.BeginAbsence();
      return std::nullopt;
    case Action::kFailAccesses:
      device_->endpoints().channel().Fail(
          absl::UnavailableError(absl::StrCat("device '", name_, "': ", outage_.cause())));
      return std::nullopt;
    case Action::kPauseVm:
      report_.PolicyActs("pauses the VM until the device is back");
      options_.pause_vm(name_);
      return std::nullopt;
    case Action::kResumeVm:
      options_.resume_vm(name_);
      return std::nullopt;
    case Action::kCloseAccesses:
      device_->endpoints().channel().Fail(VmEndsError());
      return std::nullopt;

    case Action::kRetryNow:
      outage_.RetryAfter(absl::ZeroDuration());
      return std::nullopt;
    case Action::kRetrySoon:
      outage_.RetryAfter(kChannelRetryInterval);
      return std::nullopt;
    case Action::kRetryAfterBackoff:
      outage_.RetryAfterBackoff();
      return std::nullopt;
    case Action::kRetryAfterShortage:
      outage_.RetryAfterShortage(failure_);
      return std::nullopt;

    case Action::kReportRunning:
      outage_.ReportState(v1::Device::RUNNING);
      return std::nullopt;
    case Action::kReportRestarting:
      outage_.ReportState(v1::Device::RESTARTING);
      return std::nullopt;
    case Action::kReportStopped:
      outage_.ReportState(v1::Device::STOPPED);
      return std::nullopt;
    case Action::kReportFailed:
      outage_.ReportFailed();
      return std::nullopt;
    case Action::kReportLoss:
      outage_.ReportLoss();
      return std::nullopt;
    case Action::kReportTakenAway:
      outage_.OnTakenAway();
      return std::nullopt;
    case Action::kReportFailedStart:
      outage_.OnFailedStart(failure_);
      return std::nullopt;
    case Action::kReportReset:
      report_.WasReset(command_->by);
      return std::nullopt;

    case Action::kAnswerDone:
      Answer(absl::OkStatus());
      return std::nullopt;
    case Action::kAnswerLater:
      Answer(NotYetError(name_, command_->event, failure_));
      return std::nullopt;
    case Action::kAnswerRejected:
      RevertArgs();  // the old process serves on
      Answer(commands_.ending() ? VmEndsError() : WhyRejected());
      return std::nullopt;
    case Action::kAnswerNotStarted:
      Answer(absl::FailedPreconditionError(
          attached_->exists()
              ? absl::StrCat(kDoesNotDie, "; the device starts once that has ended")
              : absl::StrCat(supervision_.state() == State::kWaiting ? "it has not started yet: "
                                                                     : "it does not start: ",
                             outage_.state_reason())));
      return std::nullopt;
    case Action::kAnswerNotDiscarded:
      Answer(failure_);
      return std::nullopt;
    case Action::kAnswerVmEnds:
      Answer(VmEndsError());
      return std::nullopt;

    case Action::kNone:  // the state machine's own
    case Action::kNoteDiscard:
    case Action::kBecomeUnavailable:
    case Action::kGiveUpAccesses:
      return std::nullopt;
  }
  return std::nullopt;
}

SupervisionEvent SupervisorActions::Reap() {
  const bool lost = supervision_.state() == State::kLost;
  heartbeats_.End();
  const std::optional<DeviceProcessEnd> end = attached_->Reap(/*planned=*/!lost);
  if (lost) outage_.OnReaped(heartbeats_.silent_since(), end);
  if (end.has_value()) return Event::kProcessGone;
  failure_ = absl::DeadlineExceededError(kDoesNotDie);
  return Event::kDoesNotDie;
}

SupervisionEvent SupervisorActions::AwaitEarlierIo() {
  outage_.StopTimer();
  const absl::Status ended = attached_->AwaitEarlierIo();
  if (ended.ok()) return Event::kIoEnded;
  if (outage_.state_reason() != ended.message()) {
    LogWarning(absl::StrCat("device '", name_, "': ", ended.message()));
  }
  outage_.SetReason(std::string(ended.message()));
  return Event::kIoInFlight;
}

SupervisionEvent SupervisorActions::StartProcess() {
  const absl::Status started =
      next_.Start(*attached_, supervision_.discard_state(), Interrupting());
  return started.ok() ? Event::kCandidateReady : OnFailure(started);
}

SupervisionEvent SupervisorActions::PrepareChannel() {
  const absl::Status prepared = attached_->PrepareChannel();
  if (prepared.ok()) return Event::kChannelReady;
  next_.PutBack();
  const Event failure = OnFailure(prepared);
  return absl::IsAborted(prepared) && failure != Event::kVmEnds ? Event::kChannelInUse : failure;
}

SupervisionEvent SupervisorActions::Attach() {
  const absl::Status attached = next_.Attach(*attached_, Interrupting());
  if (attached.ok()) return Event::kAttached;
  return absl::IsNotFound(attached) ? Event::kSpareFailed : OnFailure(attached);
}

SupervisionEvent SupervisorActions::OnFailure(const absl::Status& why) {
  failure_ = why;
  outage_.SetReason(std::string(WithoutLastLines(why.message())));
  if (supervision_.state() == State::kTakingOver) {
    outage_.SetCause("its new process does not serve");
  }
  if (commands_.ending()) return Event::kVmEnds;
  if (absl::IsCancelled(why)) return Event::kInterrupted;
  return absl::IsResourceExhausted(why) ? Event::kShortage : Event::kOwnFault;
}

SupervisionEvent SupervisorActions::StartSuccessor() {
  const bool discards = command_->event == Event::kRestartAnew;
  absl::Status status;
  if (!next_.has_successor()) status = next_.StartSuccessor(command_->binary);
  // The old process may exit meanwhile, and that is to be noticed.
  while (status.ok()) {
    status = next_.AwaitSuccessor(*attached_, discards);
    if (status.ok()) return Event::kSuccessorReady;
    if (!absl::IsCancelled(status)) break;
    attention_->Take();
    if (commands_.ending()) break;
    if (attached_->exited()) {
      OnLoss();
      return Event::kExited;
    }
    status = absl::OkStatus();
  }
  next_.DropSuccessor();
  rejection_ = status;
  return commands_.ending() ? Event::kVmEnds : Event::kSuccessorRejected;
}

void SupervisorActions::AdoptBinary() {
  next_.AdoptSuccessor();
  // What a device has died of may be in the channel.
  if (supervision_.restart_discards() && !device_->endpoints().channel().status().ok()) {
    supervision_.On(Event::kRequestsAbandoned);
  }
  outage_.ForgetFailures();
  outage_.SetCause("asked by a client");
  outage_.SetReason("asked by a client");
  kill_reason_ = "ended, to be replaced";
}

SupervisionEvent SupervisorActions::CallReset() {
  const absl::Status reset = attached_->Call(&ControlClient::Reset, kResetTimeout);
  if (commands_.ending()) return Event::kVmEnds;
  if (reset.ok()) {
    device_->SendFunctionState();
    return Event::kResetDone;
  }
  outage_.Begin(heartbeats_.silent_since());
  kill_reason_ = absl::StrCat("killed, because it could not be reset: ", reset.message());
  return Event::kResetFailed;
}

SupervisionEvent SupervisorActions::Discard() {
  if (supervision_.discard_requests()) {
    failure_ = device_->endpoints().channel().PrepareSuccessor(/*discard_requests=*/true).status();
    if (!failure_.ok()) return Event::kNotDiscarded;
    supervision_.On(Event::kRequestsDiscarded);
  }
  failure_ = device_->endpoints().DiscardDurableState();
  return failure_.ok() ? Event::kDiscarded : Event::kNotDiscarded;
}

void SupervisorActions::BeginServing() {
  DeviceProcess& process = attached_->process();
  process.ForwardOutput();
  report_.Serves(process.pid(), attached_->generation(), next_.binary().path(), process.layers());
  outage_.End();
  starter_.SetTimeout(start_timeout_);
  next_.DropBeside();
  heartbeats_.Begin(device_->endpoints().channel());
  metrics_missed_ = false;
  if (device_->function_state_missed()) device_->SendFunctionState();
}

void SupervisorActions::Answer(const absl::Status& status) {
  previous_args_.reset();
  const SupervisorCommand command = *std::exchange(command_, std::nullopt);
  command.done(status);
}

absl::Status SupervisorActions::WhyRejected() const {
  std::string what =
      absl::StrCat("it is ", v1::Device::State_Name(outage_.state()), ": ", outage_.state_reason());
  if (supervision_.state() == State::kServing) {
    what = absl::StrCat("process ", attached_->process().pid(), " of ", next_.binary().path(),
                        " serves");
  }
  if (supervision_.restart_has_discarded()) what += "; its state is discarded all the same";
  LogError(rejection_.message());
  return absl::FailedPreconditionError(
      absl::StrCat(WithoutLastLines(rejection_.message()), "; ", what));
}

}  // namespace bulkhead::vmm
