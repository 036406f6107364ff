#include "vmm/supervisor/supervisor_thread.h"

#include <sys/prctl.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_client.h"

namespace bulkhead::vmm {
namespace {

using Event = SupervisionEvent;
using State = SupervisionState;

constexpr absl::Duration kSendingInterval = absl::Milliseconds(50);

// As SupervisorCommand::flags has them.
std::vector<std::string> WithFlags(const std::vector<std::string>& args,
                                   const std::map<std::string, std::string>& flags) {
  std::vector<std::string> changed;
  for (const std::string& arg : args) {
    if (flags.count(arg.substr(0, arg.find('='))) == 0) changed.push_back(arg);
  }
  for (const auto& [name, flag] : flags) changed.push_back(flag);
  return changed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SupervisorThread>> SupervisorThread::Create(
    DeviceSpec spec, const GuestRam& ram, ProcessMonitor& monitor,
    const SupervisorOptions& options) {
  ASSIGN_OR_RETURN(std::shared_ptr<Attention> attention, Attention::Create());
  ASSIGN_OR_RETURN(DeviceClock* const clock, DeviceClock::Get());
  std::unique_ptr<SupervisorThread> supervisor =
      absl::WrapUnique(new SupervisorThread(spec, monitor, options, std::move(attention), *clock));
  RETURN_IF_ERROR(supervisor->actions_.CreateDevice(spec, ram));
  supervisor->Dispatch(Event::kCandidateReady);
  if (supervisor->supervision_.state() != State::kServing) return supervisor->actions_.failure();
  supervisor->thread_ = std::thread([s = supervisor.get()] { s->Run(); });
  return supervisor;
}

SupervisorThread::SupervisorThread(const DeviceSpec& spec, ProcessMonitor& monitor,
                                   const SupervisorOptions& options,
                                   std::shared_ptr<Attention> attention, DeviceClock& clock)
    : name_(spec.name),
      wants_spare_(spec.spare),
      attention_(std::move(attention)),
      commands_(attention_),
      supervision_(spec.access_policy),
      actions_(spec, monitor, options, attention_, commands_, supervision_, clock) {}

SupervisorThread::~SupervisorThread() {
  commands_.Shutdown();
  if (thread_.joinable()) thread_.join();
}

void SupervisorThread::Run() {
  prctl(PR_SET_NAME, absl::StrCat("device-", name_).substr(0, 15).c_str());
  while (supervision_.state() != State::kShutDown) {
    attention_->Take();
    if (commands_.ending()) {
      Dispatch(Event::kVmEnds);
      break;
    }
    const bool busy = LookAround();
    step_ = "idle";
    if (!busy) attention_->Wait(NextTime() - SteadyNow());
  }
  while (std::optional<SupervisorCommand> command = commands_.TakeOrEnd()) {
    Obey(*std::move(command));
  }
  for (const std::function<void()>& done : commands_.TakeRefreshes()) done();
  step_ = "";
}

bool SupervisorThread::LookAround() {
  const absl::Time now = SteadyNow();
  const bool serving = supervision_.state() == State::kServing;
  // Before the look: a vCPU may report a failure of the process before this one only now.
  if (serving) device().AwaitNextFailure();
  if (actions_.attached().exited()) {
    step_ = "the end of its process";
    actions_.OnLoss();
    Dispatch(Event::kExited);
  } else if (serving && absl::IsDataLoss(device().endpoints().channel().status())) {
    step_ = "the end of its process, which broke the protocol";
    OnMisbehaviour(device().endpoints().channel().status().message());
  } else if (std::optional<SupervisorCommand> command = commands_.Take(); command.has_value()) {
    step_ = "a command";
    Obey(*std::move(command));
  } else if (actions_.spare().exited()) {
    step_ = "the end of its spare";
    actions_.spare().OnExit();
  } else if (supervision_.state() == State::kWaiting && now >= actions_.outage().next_try()) {
    step_ = "the start of a process";
    actions_.outage().StopTimer();
    Dispatch(Event::kTimeToTry);
  } else if (serving && actions_.heartbeats().has_news()) {
    step_ = "a heartbeat";
    OnHang(actions_.heartbeats().Check([this] { return device().OldestPending(); }));
  } else if (serving && device().function_state_missed() && now >= next_sending_) {
    device().SendFunctionState();
    next_sending_ = now + kSendingInterval;
  } else if (serving && device().reset_missed()) {
    step_ = "a reset";
    device().ConsumeMissedReset();
    Obey({.event = Event::kReset, .by = "the guest"});
  } else if (commands_.wants_refresh()) {
    step_ = "its metrics";
    std::string hang;
    if (serving && !actions_.FetchMetrics(hang)) return true;  // the clients wait on
    for (const std::function<void()>& done : commands_.TakeRefreshes()) done();
    OnHang(hang);
  } else if (serving && wants_spare_ && now >= actions_.spare().next()) {
    step_ = "its spare";
    actions_.spare().Tend(actions_.binary());
  } else {
    return false;
  }
  return true;
}

absl::Time SupervisorThread::NextTime() const {
  absl::Time next = absl::InfiniteFuture();
  if (supervision_.state() == State::kWaiting) next = std::min(next, actions_.outage().next_try());
  if (supervision_.state() == State::kServing) {
    if (actions_.device().function_state_missed()) next = std::min(next, next_sending_);
    if (actions_.device().reset_missed()) next = absl::InfinitePast();
    if (wants_spare_) next = std::min(next, actions_.spare().next());
  }
  return next;
}

void SupervisorThread::OnHang(absl::string_view how) {
  if (how.empty()) return;
  actions_.report().PolicyActs("kills the process, which does not answer");
  OnMisbehaviour(how);
}

void SupervisorThread::OnMisbehaviour(absl::string_view how) {
  actions_.OnMisbehaviour(how);
  Dispatch(Event::kMisbehaves);
}

void SupervisorThread::Obey(SupervisorCommand command) {
  const Event event = command.event;
  if (supervision_.state() != State::kShutDown && !Change(command)) return;
  actions_.OnCommand(std::move(command));
  Dispatch(event);
}

bool SupervisorThread::Change(SupervisorCommand& command) {
  if (!command.resize_bytes.has_value() && command.flags.empty()) {
    const bool restarts = command.event == Event::kRestart || command.event == Event::kRestartAnew;
    if (restarts) device().endpoints().AcceptFileSizes();
    return true;
  }
  const bool serving = supervision_.state() == State::kServing;
  absl::Status changed;
  if (command.resize_bytes.has_value()) {
    changed = device().endpoints().ResizeFile(*command.resize_bytes);
  } else if (!serving) {
    // Its process would tell whether it knows the flags.
    changed = absl::FailedPreconditionError("the device is not RUNNING: its limits stay");
  } else {
    actions_.ChangeArgs(WithFlags(actions_.args(), command.flags));
  }
  if (changed.ok() && serving) return true;
  command.done(changed);
  return false;
}

void SupervisorThread::Dispatch(Event event) {
  for (bool at_rest = false; !at_rest;) {
    if (event == Event::kVmEnds) step_ = "the end of its processes";
    at_rest = true;
    for (const SupervisionAction action : supervision_.On(event)) {
      if (const std::optional<Event> result = actions_.CarryOut(action); result.has_value()) {
        event = *result;
        at_rest = false;
      }
    }
  }
}

}  // namespace bulkhead::vmm
