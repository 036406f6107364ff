#include "vmm/supervisor/supervision_table.h"

#include <stddef.h>
#include <stdint.h>

namespace bulkhead::vmm {
namespace {

using State = SupervisionState;
using Event = SupervisionEvent;
using enum SupervisionState;
using enum SupervisionEvent;
using enum SupervisionAction;

// Sets of states or of events, written as `kStopped | kFailed`.
template <typename T>
struct Set {
  constexpr Set() = default;
  constexpr Set(T member) : bits(uint64_t{1} << static_cast<int>(member)) {}
  constexpr bool Has(T member) const { return (bits & Set(member).bits) != 0; }

  uint64_t bits = 0;
};
using States = Set<State>;
using Events = Set<Event>;
constexpr States operator|(States a, States b) {
  a.bits |= b.bits;
  return a;
}
constexpr States operator|(State a, State b) { return States(a) | States(b); }
constexpr Events operator|(Events a, Events b) {
  a.bits |= b.bits;
  return a;
}
constexpr Events operator|(Event a, Event b) { return Events(a) | Events(b); }

constexpr States kAway = kWaiting | kStopped | kFailed;
constexpr States kAtRest = kAway | kServing;
// The other actions take at most some seconds, and nothing interrupts them.
constexpr States kInterruptible =
    kAtRest | kStarting | kResetting | kFinding | kAttaching | kTakingOver;
constexpr Events kResets = kReset | kResetForReboot;
constexpr Events kRestarts = kRestart | kRestartAnew;
constexpr Events kCommands = kRestarts | kResets | kStop | kStart;

// kLent: a process has the device's descriptors, or may have them (while the device is away, a
// killed process that does not die). kFree: none has.
enum class If { kAny, kLent, kFree };
using enum If;

constexpr State kSame = State{-1};

struct Row {
  States in;
  Events on;
  If when;
  State next;
  std::array<SupervisionAction, 6> actions;
};

// clang-format off
constexpr Row kTable[] = {
// in         on                  if     next         actions
// --- The first process, which CreateDevice() has started. What goes wrong is the error of DeviceSupervisor::Create(). --------------
{kStarting,   kCandidateReady,    kAny,  kSame,       {kPrepareChannel}},
{kStarting,   kChannelReady,      kAny,  kSame,       {kAttach}},
{kStarting,   kAttached,          kAny,  kServing,    {kBeginServing, kReportRunning}},
{kStarting,   kChannelInUse | kShortage | kOwnFault | kInterrupted, kAny, kShutDown, {}},

// --- A process ends unasked, or has to be killed. ------------------------------------------------
{kServing,    kExited,            kAny,  kLost,       {kBecomeUnavailable, kReap}},
{kServing,    kMisbehaves,        kAny,  kLost,       {kKill, kBecomeUnavailable, kReap}},
// One that does not die counts as ended: the policy decides what the guest meets meanwhile.
{kLost,       kProcessGone | kDoesNotDie, kAny,  kSame,       {kReportLoss, kAskPolicy}},
{kLost,       kPolicyRestarts,    kAny,  kWaiting,    {kRetryAfterBackoff, kReportRestarting}},
{kLost,       kPolicyStops,       kAny,  kStopped,    {kDropSpare, kFailAccesses, kReportStopped}},
{kLost,       kPolicyFails,       kAny,  kFailed,     {kDropSpare, kGiveUpAccesses, kReportFailed}},
// A process that did not die in time has died: the next try need not wait for the timer.
{kAway,       kExited,            kAny,  kSame,       {kReap}},
{kAway,       kDoesNotDie,        kAny,  kSame,       {}},
{kWaiting,    kProcessGone,       kAny,  kSame,       {kRetryNow}},
{kStopped | kFailed, kProcessGone, kAny,  kSame,       {}},

// --- A try to have a process serve. --------------------------------------------------------------
// No process gets the descriptors before the one that has them is reaped.
{kWaiting,    kTimeToTry,         kLent, kSame,       {}},
{kWaiting,    kTimeToTry,         kFree, kFinding,    {kAwaitEarlierIo}},
{kFinding,    kIoInFlight,        kAny,  kWaiting,    {kRetrySoon, kReportRestarting}},
{kFinding,    kIoEnded,           kAny,  kSame,       {kTakeSpare}},
{kFinding,    kNoSpare,           kAny,  kSame,       {kStartProcess}},
{kFinding,    kSpareTaken | kCandidateReady, kAny,  kAttaching,  {kPrepareChannel}},
{kAttaching,  kChannelReady,      kAny,  kSame,       {kAttach}},
{kAttaching,  kChannelInUse,      kAny,  kWaiting,    {kRetrySoon, kReportRestarting}},
{kAttaching,  kAttached,          kAny,  kServing,    {kBeginServing, kReportRunning}},
// The failure of a spare is of no consequence.
{kAttaching,  kSpareFailed,       kAny,  kFinding,    {kStartProcess}},
{kFinding | kAttaching, kInterrupted, kAny,  kWaiting,    {kRetryNow}},
// A shortage of the host is no failure of the device: the policy is not asked.
{kFinding | kAttaching, kShortage, kAny,  kWaiting,    {kRetryAfterShortage, kReportRestarting}},
{kFinding | kAttaching, kOwnFault, kAny,  kLost,       {kReportFailedStart, kAskPolicy}},

// --- Restart: the new process is started, and asked what it is, while the old one serves. If that
// fails (kSuccessorRejected), the old one serves on. If it fails to attach: kTakingOver, kOwnFault.
{kAtRest,     kRestarts,          kAny,  kSame,       {kStartSuccessor}},
{kAtRest,     kSuccessorRejected, kAny,  kSame,       {kAnswerRejected}},
{kServing,    kSuccessorReady,    kAny,  kReplacing,
    {kAdoptBinary, kReportTakenAway, kReportRestarting, kQuiesce, kKill, kReap}},
{kAway,       kSuccessorReady,    kLent, kReplacing,
    {kAdoptBinary, kReportRestarting, kQuiesce, kKill, kReap}},
{kAway,       kSuccessorReady,    kFree, kTakingOver,
    {kAdoptBinary, kReportRestarting, kPrepareChannel}},
{kReplacing,  kProcessGone,       kAny,  kTakingOver, {kPrepareChannel}},
{kReplacing,  kDoesNotDie,        kAny,  kWaiting,    {kBecomeUnavailable, kAnswerLater}},
{kTakingOver, kChannelReady,      kAny,  kSame,       {kAttach}},
{kTakingOver, kAttached,          kAny,  kServing,    {kBeginServing, kReportRunning, kAnswerDone}},
// Not the binary's fault: the new binary stays.
{kTakingOver, kChannelInUse | kInterrupted, kAny,  kWaiting,
    {kBecomeUnavailable, kRetrySoon, kReportRestarting, kAnswerLater}},
{kTakingOver, kShortage,          kAny,  kWaiting,
    {kBecomeUnavailable, kRetryAfterShortage, kReportRestarting, kAnswerLater}},
// Its own fault: back to the previous binary, which is tried at once unless the failed process does
// not die.
{kTakingOver, kOwnFault,          kLent, kWaiting,
    {kBecomeUnavailable, kRevertBinary, kAnswerRejected}},
{kTakingOver, kOwnFault,          kFree, kFinding,
    {kBecomeUnavailable, kRevertBinary, kAwaitEarlierIo}},
{kAtRest,     kFellBack,          kAny,  kSame,       {kAnswerRejected}},

// --- Stop. ---------------------------------------------------------------------------------------
{kServing,    kStop,              kAny,  kStopping,
    {kDropSpare, kReportTakenAway, kQuiesce, kKill, kReap}},
{kStopped,    kStop,              kAny,  kSame,       {kDropSpare, kAnswerDone}},
{kWaiting | kFailed, kStop,       kLent, kStopping,   {kDropSpare, kQuiesce, kKill, kReap}},
{kWaiting | kFailed, kStop,       kFree, kStopped,
    {kDropSpare, kFailAccesses, kReportStopped, kAnswerDone}},
{kStopping,   kProcessGone,       kAny,  kStopped,    {kFailAccesses, kReportStopped, kAnswerDone}},
{kStopping,   kDoesNotDie,        kAny,  kStopped,
    {kFailAccesses, kReportStopped, kAnswerLater}},

// --- Start: one try. If it fails, further ones follow as after a loss. ---------------------------
{kServing,    kStart,             kAny,  kSame,       {kAnswerDone}},
{kAway,       kStart,             kLent, kWaiting,    {kForgetFailures, kReportRestarting}},
{kAway,       kStart,             kFree, kFinding,
    {kForgetFailures, kReportRestarting, kAwaitEarlierIo}},
{kServing,    kStartTried,        kAny,  kSame,       {kAnswerDone}},
{kAway,       kStartTried,        kAny,  kSame,       {kAnswerNotStarted}},

// --- Reset. A process that cannot reset itself is lost, and then the device is reset while away. -
{kServing,    kResets,            kAny,  kResetting,  {kCallReset}},
{kResetting,  kResetDone,         kAny,  kServing,    {kReportReset, kAnswerDone}},
{kResetting,  kResetFailed,       kAny,  kLost,       {kKill, kBecomeUnavailable, kReap}},
{kAway,       kResets,            kLent, kSame,       {kNoteDiscard, kReportReset, kAnswerLater}},
{kAway,       kResets,            kFree, kSame,       {kNoteDiscard, kReportReset, kDiscard}},
{kAway,       kDiscarded,         kAny,  kSame,       {kAnswerDone}},
{kAway,       kNotDiscarded,      kAny,  kSame,       {kAnswerNotDiscarded}},

// --- The VM ends. --------------------------------------------------------------------------------
{kInterruptible, kVmEnds,         kLent, kShutDown,
    {kAnswerVmEnds, kDropSpare, kEndProcess, kCloseAccesses}},
{kInterruptible, kVmEnds,         kFree, kShutDown,
    {kAnswerVmEnds, kDropSpare, kCloseAccesses}},
{kShutDown,   kCommands,          kAny,  kSame,       {kAnswerVmEnds}},

// --- What is learned in the middle of an action; class Supervision keeps it. ---------------------
{kStarting | kAttaching | kTakingOver,
    kGuestReset | kRequestsDiscarded | kHandedOver | kProcessGone, kAny, kSame, {}},
{kReplacing | kTakingOver, kRequestsAbandoned, kAny,  kSame,       {}},
{kAway,       kRequestsDiscarded, kAny,  kSame,       {}},
};
// clang-format on

// Events that cannot come in a state: they are not looked for, or no action there has such a
// result.
constexpr Events kSeen = kExited | kMisbehaves | kTimeToTry;  // by the thread, at rest
constexpr Events kReapResults = kProcessGone | kDoesNotDie;
constexpr Events kPolicyResults = kPolicyRestarts | kPolicyStops | kPolicyFails;
constexpr Events kFindResults = kIoEnded | kIoInFlight | kSpareTaken | kNoSpare | kCandidateReady;
constexpr Events kFailures = kOwnFault | kShortage | kInterrupted;
constexpr Events kAttachResults =
    kChannelReady | kChannelInUse | kAttached | kSpareFailed | kGuestReset | kHandedOver;
constexpr Events kSuccessorResults = kSuccessorReady | kSuccessorRejected;
constexpr Events kResetResults = kResetDone | kResetFailed;
constexpr Events kDiscardResults = kDiscarded | kNotDiscarded;
constexpr Events kRequestFacts = kRequestsAbandoned | kRequestsDiscarded;
constexpr Events kLeftOfCommands = kStartTried | kFellBack;

// clang-format off
constexpr Events kImpossible[kSupervisionStates] = {
/* kServing */    kTimeToTry | kReapResults | kPolicyResults | kFindResults | kFailures |
                  kAttachResults | kResetResults | kDiscardResults | kRequestFacts,
/* kWaiting */    kMisbehaves | kRequestsAbandoned | kPolicyResults | kFindResults | kFailures |
                  kAttachResults | kResetResults,
/* kStopped */    kMisbehaves | kTimeToTry | kRequestsAbandoned | kPolicyResults | kFindResults |
                  kFailures | kAttachResults | kResetResults,
/* kFailed */     kMisbehaves | kTimeToTry | kRequestsAbandoned | kPolicyResults | kFindResults |
                  kFailures | kAttachResults | kResetResults,
/* kStarting */   kSeen | kCommands | kDoesNotDie | kPolicyResults | kIoEnded | kIoInFlight |
                  kSpareTaken | kNoSpare | kSpareFailed | kSuccessorResults | kResetResults |
                  kDiscardResults | kRequestsAbandoned | kLeftOfCommands,
/* kResetting */  kSeen | kCommands | kReapResults | kPolicyResults | kFindResults | kFailures |
                  kAttachResults | kSuccessorResults | kDiscardResults | kRequestFacts |
                  kLeftOfCommands,
/* kLost */       kVmEnds | kSeen | kCommands | kFindResults | kFailures | kAttachResults |
                  kSuccessorResults | kResetResults | kDiscardResults | kRequestFacts |
                  kLeftOfCommands,
/* kFinding */    kSeen | kCommands | kReapResults | kPolicyResults | kAttachResults |
                  kSuccessorResults | kResetResults | kDiscardResults | kRequestFacts |
                  kLeftOfCommands,
/* kAttaching */  kSeen | kCommands | kDoesNotDie | kPolicyResults | kFindResults |
                  kSuccessorResults | kResetResults | kDiscardResults | kRequestsAbandoned |
                  kLeftOfCommands,
/* kReplacing */  kVmEnds | kSeen | kCommands | kPolicyResults | kFindResults | kFailures |
                  kAttachResults | kSuccessorResults | kResetResults | kDiscardResults |
                  kRequestsDiscarded | kLeftOfCommands,
/* kTakingOver */ kSeen | kCommands | kDoesNotDie | kPolicyResults | kFindResults | kSpareFailed |
                  kSuccessorResults | kResetResults | kDiscardResults | kLeftOfCommands,
/* kStopping */   kVmEnds | kSeen | kCommands | kPolicyResults | kFindResults | kFailures |
                  kAttachResults | kSuccessorResults | kResetResults | kDiscardResults |
                  kRequestFacts | kLeftOfCommands,
/* kShutDown */   kVmEnds | kSeen | kReapResults | kPolicyResults | kFindResults | kFailures |
                  kAttachResults | kSuccessorResults | kResetResults | kDiscardResults |
                  kRequestFacts | kLeftOfCommands,
};
// clang-format on

using Steps =
    std::array<std::array<std::array<SupervisionStep, 2>, kSupervisionEvents>, kSupervisionStates>;

// Fails to compile unless each pair of state and event is in exactly one of the two tables, once
// for each condition.
constexpr Steps ExpandTable() {
  Steps steps = {};
  for (const Row& row : kTable) {
    for (int state = 0; state < kSupervisionStates; ++state) {
      for (int event = 0; event < kSupervisionEvents; ++event) {
        if (!row.in.Has(State{state}) || !row.on.Has(Event{event})) continue;
        for (const bool lent : {false, true}) {
          if (row.when == (lent ? kFree : kLent)) continue;
          SupervisionStep& step = steps[state][event][lent];
          if (step.possible) throw "two rows of kTable for one state and event";
          step = {.possible = true,
                  .next = row.next == kSame ? State{state} : row.next,
                  .actions = row.actions};
        }
      }
    }
  }
  for (int state = 0; state < kSupervisionStates; ++state) {
    for (int event = 0; event < kSupervisionEvents; ++event) {
      for (const SupervisionStep& step : steps[state][event]) {
        if (step.possible == kImpossible[state].Has(Event{event})) {
          throw "a state and event must be in kTable or in kImpossible";
        }
      }
    }
  }
  return steps;
}
constexpr Steps kSteps = ExpandTable();

}  // namespace

const SupervisionStep& FindSupervisionStep(SupervisionState state, SupervisionEvent event,
                                           bool descriptors_lent) {
  return kSteps[static_cast<size_t>(state)][static_cast<size_t>(event)][descriptors_lent ? 1 : 0];
}

}  // namespace bulkhead::vmm
