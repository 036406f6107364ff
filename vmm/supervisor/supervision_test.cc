#include "vmm/supervisor/supervision.h"

#include <stddef.h>
#include <stdio.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/supervision_table.h"

namespace bulkhead::vmm {
namespace {

using State = SupervisionState;
using Event = SupervisionEvent;
using Action = SupervisionAction;
using enum SupervisionEvent;

constexpr const char* kStateNames[kSupervisionStates] = {
    "serving", "waiting",   "stopped",   "failed",      "starting", "resetting", "lost",
    "finding", "attaching", "replacing", "taking over", "stopping", "shut down",
};
constexpr const char* kEventNames[kSupervisionEvents] = {
    "exited",
    "misbehaves",
    "time to try",
    "VM ends",
    "restart",
    "restart anew",
    "reset",
    "reset for reboot",
    "stop",
    "start",
    "process gone",
    "does not die",
    "policy restarts",
    "policy stops",
    "policy fails",
    "I/O ended",
    "I/O in flight",
    "spare taken",
    "no spare",
    "candidate ready",
    "channel ready",
    "channel in use",
    "attached",
    "spare failed",
    "own fault",
    "shortage",
    "interrupted",
    "successor ready",
    "successor rejected",
    "reset done",
    "reset failed",
    "discarded",
    "not discarded",
    "guest reset",
    "requests abandoned",
    "requests discarded",
    "handed over",
    "start tried",
    "fell back",
};
const char* Name(Event event) { return kEventNames[static_cast<int>(event)]; }
const char* Name(State state) { return kStateNames[static_cast<int>(state)]; }

bool IsAtRest(State state) { return state <= State::kFailed; }
bool IsCommand(Event event) { return event >= kRestart && event <= kStart; }
bool IsAnswer(Action action) { return action >= Action::kAnswerDone; }
bool HasResult(Action action) { return action >= Action::kReap && action <= Action::kDiscard; }

// A state machine and what it has done so far with processes, commands and the VM. Says which
// events can come next, and finds actions that break a rule.
struct World {
  explicit World(AccessPolicy policy) : machine(policy) {}

  Supervision machine;

  enum class Process { kNone, kServes, kDying } process = Process::kNone;
  std::optional<Action> action = Action::kStartProcess;  // under way
  bool spare = false;                                    // the candidate is one
  bool attaching = false;                                // the candidate may have the descriptors
  bool handed_over = false;                              // it has them
  bool timer = false;                                    // armed
  bool vm_paused = false;
  std::optional<Event> command;  // not answered yet
  // What a command has asked for, until it is done: for a restart, until a process serves.
  bool restart_discards = false;
  bool reset_discards = false;
  bool discards_requests = false;
  bool binary_tried = false;  // the binary of a restart command that is not answered yet

  auto operator<=>(const World&) const = default;

  std::vector<Event> NextEvents() const;
  // An empty string, or which rule is broken.
  std::string On(Event event);

 private:
  void Happen(Event event);
  std::string Judge(Event event, Action action);
};

std::vector<Event> World::NextEvents() const {
  const bool abandons = command == kRestartAnew && (machine.state() == State::kReplacing ||
                                                    machine.state() == State::kTakingOver);
  if (action.has_value()) {
    switch (*action) {
      case Action::kReap:
        if (abandons) return {kRequestsAbandoned, kProcessGone, kDoesNotDie};
        return {kProcessGone, kDoesNotDie};
      case Action::kAskPolicy:
        return {kPolicyRestarts, kPolicyStops, kPolicyFails};
      case Action::kAwaitEarlierIo:
        return {kIoEnded, kIoInFlight};
      case Action::kTakeSpare:
        return {kSpareTaken, kNoSpare};
      case Action::kStartProcess:
        return {kCandidateReady, kOwnFault, kShortage, kInterrupted, kVmEnds};
      case Action::kPrepareChannel:
        if (abandons && !attaching && !discards_requests)
          return {kRequestsAbandoned, kChannelReady};
        return {kGuestReset, kRequestsDiscarded, kChannelReady, kChannelInUse, kShortage, kVmEnds};
      case Action::kAttach:
        if (!attaching) {  // the candidate is dead by now
          if (spare) return {kSpareFailed, kOwnFault, kShortage, kInterrupted, kVmEnds};
          return {kOwnFault, kShortage, kInterrupted, kVmEnds};
        }
        if (!handed_over) return {kHandedOver, kProcessGone};
        return {kAttached, kProcessGone, kOwnFault, kShortage, kInterrupted, kVmEnds};
      case Action::kStartSuccessor:
        if (process == Process::kNone) return {kSuccessorReady, kSuccessorRejected, kVmEnds};
        return {kSuccessorReady, kSuccessorRejected, kVmEnds, kExited};
      case Action::kCallReset:
        return {kResetDone, kResetFailed, kVmEnds};
      case Action::kDiscard:
        if (machine.discard_requests()) return {kRequestsDiscarded, kNotDiscarded};
        return {kDiscarded, kNotDiscarded};
      default:
        return {};
    }
  }
  std::vector<Event> events = {kRestart, kRestartAnew, kReset, kResetForReboot, kStop, kStart};
  if (machine.state() == State::kShutDown) return events;
  events.push_back(kVmEnds);
  if (process != Process::kNone) events.push_back(kExited);
  if (machine.state() == State::kServing) events.push_back(kMisbehaves);
  if (machine.state() == State::kWaiting && timer) events.push_back(kTimeToTry);
  return events;
}

void World::Happen(Event event) {
  switch (event) {
    case kTimeToTry:
      timer = false;
      break;
    case kProcessGone:
      process = Process::kNone;
      attaching = false;
      break;
    case kDoesNotDie:
      process = Process::kDying;
      break;
    case kSpareTaken:
    case kCandidateReady:
      spare = event == kSpareTaken;
      break;
    case kHandedOver:
      handed_over = true;
      reset_discards = false;
      break;
    case kAttached:
      process = Process::kServes;
      attaching = binary_tried = false;
      restart_discards = false;
      break;
    case kOwnFault:
    case kShortage:
    case kInterrupted:
    case kVmEnds:
      if (attaching) process = Process::kDying;
      attaching = false;
      break;
    case kDiscarded:
      reset_discards = false;
      break;
    case kRequestsDiscarded:
      discards_requests = false;
      break;
    case kRequestsAbandoned:
      discards_requests = true;
      break;
    case kGuestReset:
      reset_discards = discards_requests = true;
      break;
    case kReset:
    case kResetForReboot:
      // Where a process serves it obeys; else, or if it fails to, it is for the next one.
      if (machine.state() == State::kServing) break;
      reset_discards = true;
      discards_requests |= event == kResetForReboot;
      break;
    default:
      break;
  }
  if (IsCommand(event)) command = event;
}

std::string World::Judge(Event event, Action done) {
  const bool over = machine.state() == State::kShutDown;
  if (IsAnswer(done)) {
    if (!command.has_value()) return "an answer without a command";
    const bool serves = process == Process::kServes;
    if (done == Action::kAnswerDone) {
      if (command == kStop && serves) return "stopped, and a process serves";
      if (command == kStart && !serves) return "started, and no process serves";
      if ((command == kRestart || command == kRestartAnew) && !serves) {
        return "restarted, and no process serves";
      }
    }
    if (binary_tried && done == Action::kAnswerRejected)
      return "a binary that was rejected is kept";
    if (!binary_tried && done == Action::kAnswerLater &&
        (command == kRestart || command == kRestartAnew)) {
      return "a binary is promised and taken back";
    }
    binary_tried = false;
    command.reset();
  }
  switch (done) {
    case Action::kStartProcess:
    case Action::kTakeSpare:
    case Action::kStartSuccessor:
      if (over) return "a start after the shutdown";
      break;
    case Action::kPrepareChannel:
    case Action::kAttach:
      if (over) return "an attachment after the shutdown";
      if (process != Process::kNone) return "an attachment before the predecessor is reaped";
      attaching = done == Action::kAttach;
      handed_over = false;
      break;
    case Action::kKill:
    case Action::kReap:
    case Action::kQuiesce:
    case Action::kEndProcess:
      if (process == Process::kNone && !attaching) return "no process to kill, quiesce or reap";
      break;
    case Action::kCallReset:
    case Action::kReportRunning:
      if (process != Process::kServes) return "no process serves";
      if (vm_paused) return "the VM is paused although the device serves";
      break;
    case Action::kReportFailed:
      if (event != kPolicyFails) return "failed, and not by the restart policy";
      break;
    case Action::kReportStopped:
      if (event != kPolicyStops && command != kStop) return "stopped unasked";
      if (vm_paused) return "the VM is paused although the device is stopped";
      break;
    case Action::kAdoptBinary:
      if (command != kRestart && command != kRestartAnew) return "a binary that nobody asked for";
      binary_tried = true;
      spare = false;
      restart_discards |= command == kRestartAnew;
      break;
    case Action::kRevertBinary:
      if (!binary_tried) return "a binary is taken back although the command was answered";
      binary_tried = false;
      break;
    case Action::kDiscard:
      if (process != Process::kNone) return "the state is discarded below a process";
      break;
    case Action::kPauseVm:
      if (vm_paused) return "paused twice";
      vm_paused = true;
      break;
    case Action::kResumeVm:
      if (!vm_paused) return "resumed twice";
      vm_paused = false;
      break;
    case Action::kRetryNow:
    case Action::kRetrySoon:
    case Action::kRetryAfterBackoff:
    case Action::kRetryAfterShortage:
      timer = true;
      break;
    default:
      break;
  }
  return "";
}

std::string World::On(Event event) {
  Happen(event);
  // After these the action goes on.
  const bool goes_on = (event >= kGuestReset && event <= kHandedOver) ||
                       (event == kProcessGone && action == Action::kAttach);
  if (!goes_on) action.reset();
  for (const Action done : machine.On(event)) {
    if (action.has_value()) return "an action after one that has a result";
    if (const std::string broken = Judge(event, done); !broken.empty()) return broken;
    if (HasResult(done)) action = done;
  }
  const State state = machine.state();
  if (state == State::kShutDown && command.has_value()) return "no answer at the end";
  if (state == State::kServing && process != Process::kServes) return "no process serves";
  if (action == Action::kPrepareChannel || action == Action::kStartProcess) {
    if ((restart_discards || reset_discards) && !machine.discard_state()) {
      return "the state is not going to be discarded";
    }
    if (discards_requests && !machine.discard_requests()) {
      return "what is in the channel is not going to be discarded";
    }
  }
  if (action.has_value() || state == State::kShutDown) return "";
  if (!IsAtRest(state)) return "no action is under way, and the state waits for a result";
  if (command.has_value()) return "at rest, and a command is not answered";
  if (state == State::kWaiting && !timer && process == Process::kNone) return "waits for nothing";
  return "";
}

// All that can happen to a device with `policy`, in any order and for any length of time: each
// world that can be reached, with the shortest way to it.
class SupervisionTest : public testing::TestWithParam<AccessPolicy> {
 protected:
  using Way = std::vector<Event>;

  // False: a rule is broken, and the test has failed.
  bool Explore() {
    std::deque<World> front = {World(GetParam())};
    ways_[front.front()] = {};
    for (; !front.empty(); front.pop_front()) {
      const World world = front.front();
      const Way way = ways_[world];
      for (const Event event : world.NextEvents()) {
        pairs_.insert({world.machine.state(), event});
        World next = world;
        const std::string broken = next.On(event);
        Way longer = way;
        longer.push_back(event);
        if (!broken.empty()) {
          ADD_FAILURE() << broken << ", in state " << Name(next.machine.state()) << ", after"
                        << Describe(longer);
          return false;
        }
        if (ways_.emplace(next, longer).second) front.push_back(next);
      }
    }
    return true;
  }

  static std::string Describe(const Way& way) {
    Supervision machine(GetParam());
    std::string text;
    for (const Event event : way) {
      text.append("\n  ").append(Name(machine.state())).append(": ").append(Name(event));
      machine.On(event);
    }
    return text;
  }

  std::map<World, Way> ways_;
  std::set<std::pair<State, Event>> pairs_;
};

TEST_P(SupervisionTest, BreaksNoRuleWhateverHappens) {
  ASSERT_TRUE(Explore());
  size_t longest = 0;
  for (const auto& [world, way] : ways_) longest = std::max(longest, way.size());
  printf("%zu worlds, up to %zu events from the start\n", ways_.size(), longest);
}

TEST_P(SupervisionTest, EachRowOfTheTableIsOfUse) {
  ASSERT_TRUE(Explore());
  for (int s = 0; s < kSupervisionStates; ++s) {
    for (int e = 0; e < kSupervisionEvents; ++e) {
      const State state{s};
      const Event event{e};
      if (event == kStartTried || event == kFellBack) continue;  // raised by the machine itself
      EXPECT_EQ(pairs_.count({state, event}) > 0,
                FindSupervisionStep(state, event, /*descriptors_lent=*/false).possible)
          << Name(state) << ": " << Name(event);
    }
  }
}

TEST_P(SupervisionTest, IgnoresAnEventThatIsImpossible) {
  ASSERT_TRUE(Explore());
  for (const auto& [world, way] : ways_) {
    for (int e = 0; e < kSupervisionEvents; ++e) {
      Supervision machine = world.machine;
      if (FindSupervisionStep(machine.state(), Event{e}, /*descriptors_lent=*/false).possible)
        continue;
      EXPECT_TRUE(machine.On(Event{e}).empty()) << Name(Event{e});
      EXPECT_EQ(machine, world.machine) << Name(Event{e});
    }
  }
}

std::string PolicyName(const testing::TestParamInfo<AccessPolicy>& info) {
  constexpr const char* kNames[] = {"Wait", "AllOnes", "PauseVm"};
  return kNames[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Policies, SupervisionTest,
                         testing::Values(AccessPolicy::kWait, AccessPolicy::kAllOnes,
                                         AccessPolicy::kPauseVm),
                         PolicyName);

}  // namespace
}  // namespace bulkhead::vmm
