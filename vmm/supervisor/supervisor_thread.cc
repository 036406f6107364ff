#include "vmm/supervisor/supervisor_thread.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_client.h"

namespace bulkhead::vmm {
namespace {

using Kind = SupervisorThread::Command::Kind;

// How long a process may take to end once it was asked to, and once it was killed.
constexpr absl::Duration kEndTimeout = absl::Milliseconds(500);
constexpr absl::Duration kTellingInterval = absl::Milliseconds(50);

// Stop and restart decide what becomes of the device, so what is being tried is pointless. A reset
// or a start is served by what is being tried.
Attention::Urgency UrgencyOf(Kind kind) {
  switch (kind) {
    case Kind::kReset:
    case Kind::kStart:
      return Attention::Urgency::kNews;
    case Kind::kRestart:
    case Kind::kStop:
    case Kind::kResetForReboot:
      return Attention::Urgency::kCommand;
  }
  return Attention::Urgency::kNews;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SupervisorThread>> SupervisorThread::Create(
    DeviceSpec spec, const GuestRam& ram, ProcessMonitor& monitor,
    const SupervisorOptions& options) {
  ASSIGN_OR_RETURN(std::shared_ptr<Attention> attention, Attention::Create());
  std::unique_ptr<SupervisorThread> supervisor =
      absl::WrapUnique(new SupervisorThread(spec, monitor, options, std::move(attention)));
  RETURN_IF_ERROR(supervisor->StartFirst(spec, ram));
  supervisor->thread_ = std::thread([s = supervisor.get()] { s->Run(); });
  return supervisor;
}

SupervisorThread::SupervisorThread(const DeviceSpec& spec, ProcessMonitor& monitor,
                                   const SupervisorOptions& options,
                                   std::shared_ptr<Attention> attention)
    : name_(spec.name),
      access_policy_(spec.access_policy),
      access_timeout_(spec.access_timeout),
      wants_spare_(spec.spare),
      options_(options),
      attention_(std::move(attention)),
      starter_(monitor, attention_, spec.name, spec.args, options.start_timeout),
      report_(spec, *options.events),
      binary_(spec.binary),
      random_(static_cast<unsigned>(absl::ToUnixNanos(SteadyNow()) ^ getpid())),
      policy_(spec.restart, [this] { return std::generate_canonical<double, 32>(random_); }),
      shortage_([this] { return std::generate_canonical<double, 32>(random_); }),
      heartbeats_(spec.heartbeat, spec.access_timeout, attention_, report_),
      spare_(
          starter_, report_,
          [this](const Candidate& candidate) { return CheckFit(candidate, false); },
          [this] { return std::generate_canonical<double, 32>(random_); }) {}

SupervisorThread::~SupervisorThread() {
  Shutdown();
  if (thread_.joinable()) thread_.join();
}

absl::Status SupervisorThread::StartFirst(DeviceSpec& spec, const GuestRam& ram) {
  ASSIGN_OR_RETURN(Candidate first, starter_.StartCandidate(binary_, Urgency::kEnd));
  RemoteDeviceOptions options;
  options.vcpus = options_.vcpus;
  options.park = options_.park;
  options.on_slow_access = [name = name_, hold = options_.hold_vm](bool slow) { hold(name, slow); };
  options.on_trouble = [attention = attention_] { attention->Demand(Urgency::kNews); };
  absl::StatusOr<std::unique_ptr<RemoteDevice>> device =
      RemoteDevice::Create(spec, first.description, ram, std::move(options));
  if (!device.ok()) return first.process->ExplainFailure(device.status());
  device_ = *std::move(device);
  absl::StatusOr<std::unique_ptr<Absence>> absence = Absence::Create(
      {.timeout = access_timeout_,
       .is_used = [device = device_.get()] { return device->masters_bus(); },
       .hold = [name = name_, hold = options_.hold_vm](bool held) { hold(name, held); }});
  if (!absence.ok()) return first.process->ExplainFailure(absence.status());
  absence_ = *std::move(absence);
  report_.SetDescription(device_->description());
  state_version_ = first.description.state_version;
  RETURN_IF_ERROR(Attach(std::move(first), Urgency::kEnd));
  BeginServing();
  return absl::OkStatus();
}

void SupervisorThread::Give(Command command) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended_) {
      const Urgency urgency = UrgencyOf(command.kind);
      commands_.push_back(std::move(command));
      // Still under the lock: a demand that came after its command was carried out would interrupt
      // what the thread does next.
      attention_->Demand(urgency);
      return;
    }
  }
  command.done(absl::UnavailableError("the VM ends"));
}

void SupervisorThread::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  attention_->Demand(Urgency::kEnd);
}

void SupervisorThread::AwaitShutdown() {
  if (!thread_.joinable()) return;
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&ended_));
}

bool SupervisorThread::ending() const {
  absl::MutexLock lock(&mutex_);
  return ending_;
}

void SupervisorThread::Run() {
  prctl(PR_SET_NAME, absl::StrCat("device-", name_).substr(0, 15).c_str());
  while (true) {
    attention_->Take();
    if (ending()) break;
    const bool busy = DoNext();
    step_ = "idle";
    if (!busy) attention_->Wait(NextTime() - SteadyNow());
  }
  End();
}

bool SupervisorThread::DoNext() {
  const absl::Time now = SteadyNow();
  const bool running = state_ == v1::Device::RUNNING;
  if (process_ != nullptr && process_->exited()) {
    step_ = "the replacement of its process, which has ended";
    OnLoss();
  } else if (running && absl::IsDataLoss(device_->endpoints().channel().status())) {
    step_ = "the replacement of its process, which broke the protocol";
    process_->Kill(
        absl::StrCat("killed, because ", device_->endpoints().channel().status().message()));
    OnLoss();
  } else if (std::optional<Command> command = TakeCommand(); command.has_value()) {
    step_ = "a command";
    command->done(Perform(*command));
  } else if (spare_.exited()) {
    step_ = "the end of its spare";
    spare_.NoticeDeath();
  } else if (state_ == v1::Device::RESTARTING && now >= next_try_) {
    step_ = "the start of a process";
    TryRestart(Urgency::kCommand);
  } else if (now >= heartbeats_.next()) {
    step_ = "a heartbeat";
    const std::string hang =
        heartbeats_.Send(process_->control(), [this] { return device_->OldestPending(); });
    if (hang.empty()) return true;
    report_.PolicyActs("kills the process, which does not answer");
    process_->Kill(absl::StrCat("killed, because ", hang));
    OnLoss();
  } else if (running && device_->function_state_missed() && now >= next_telling_) {
    device_->TellFunctionState();
    next_telling_ = now + kTellingInterval;
  } else if (running && device_->reset_missed()) {
    step_ = "a reset";
    device_->TakeMissedReset();
    Reset("the guest", /*discard_requests=*/false).IgnoreError();
  } else if (running && wants_spare_ && now >= spare_.next()) {
    step_ = "its spare";
    spare_.Tend(binary_, heartbeats_.next() - now);
  } else {
    return false;
  }
  return true;
}

absl::Time SupervisorThread::NextTime() const {
  absl::Time next = heartbeats_.next();
  if (state_ == v1::Device::RESTARTING) next = std::min(next, next_try_);
  if (state_ == v1::Device::RUNNING) {
    if (device_->function_state_missed()) next = std::min(next, next_telling_);
    if (device_->reset_missed()) next = absl::InfinitePast();
    if (wants_spare_) next = std::min(next, spare_.next());
  }
  return next;
}

std::optional<SupervisorThread::Command> SupervisorThread::TakeCommand() {
  absl::MutexLock lock(&mutex_);
  if (commands_.empty()) return std::nullopt;
  Command command = std::move(commands_.front());
  commands_.pop_front();
  return command;
}

void SupervisorThread::End() {
  step_ = "the end of its processes";
  spare_.Drop();
  if (process_ != nullptr) {
    // What the guest has sent takes effect.
    process_->AskToEnd();
    if (!process_->WaitForEnd(kEndTimeout).ok()) {
      process_->Kill("killed, because it did not end when asked to");
    }
    Bury(/*planned=*/true);
  }
  device_->endpoints().channel().Fail(absl::UnavailableError("the VM ends"));
  while (true) {
    std::optional<Command> command;
    {
      absl::MutexLock lock(&mutex_);
      ended_ = commands_.empty();
      if (ended_) {
        step_ = "";
        return;
      }
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    command->done(absl::UnavailableError("the VM ends"));
  }
}

void SupervisorThread::SetState(State state, const std::string& reason) {
  state_ = state;
  state_reason_ = reason;
  report_.SetState(state, reason);
  if (state == v1::Device::RESTARTING && access_policy_ == AccessPolicy::kWait) {
    absence_->Begin(away_since_);
  } else {
    absence_->End();
  }
}

absl::Status SupervisorThread::CallProcess(absl::Status (ControlClient::*method)(ControlCall&),
                                           absl::Duration timeout) {
  ControlCall call(timeout);
  const Attention::Interruptible wait(*attention_, Urgency::kEnd, [&call] { call.Cancel(); });
  return (process_->control().*method)(call);
}

}  // namespace bulkhead::vmm
