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

// Sets of states, and of events.
using Set = uint64_t;
template <typename... T>
constexpr Set Any(T... members) {
  return (... | (uint64_t{1} << static_cast<int>(members)));
}
template <typename T>
constexpr bool Has(Set set, T member) {
  return (set & Any(member)) != 0;
}
constexpr Set kAllEvents = (uint64_t{1} << kSupervisionEvents) - 1;

constexpr Set kAway = Any(kWaiting, kStopped, kFailed);
constexpr Set kAtRest = kAway | Any(kServing);
// The other actions take at most some seconds, and nothing interrupts them.
constexpr Set kInterruptible =
    kAtRest | Any(kStarting, kResetting, kFinding, kAttaching, kTakingOver);
constexpr Set kResets = Any(kReset, kResetForReboot);
constexpr Set kRestarts = Any(kRestart, kRestartAnew);
constexpr Set kCommands = kRestarts | kResets | Any(kStop, kStart);

// If a process has the descriptors, or may have them. Away, that is one that does not die.
enum class If { kAlways, kHeld, kNotHeld };
constexpr If kAlways = If::kAlways;
constexpr If kHeld = If::kHeld;
constexpr If kNotHeld = If::kNotHeld;

constexpr State kSame = State{-1};

struct Row {
  Set in;
  Set on;
  If when;
  State next;
  std::array<SupervisionAction, 6> actions;
};

// clang-format off
constexpr Row kTable[] = {
// --- The first process. What goes wrong is the error of DeviceSupervisor::Create(). --------------
{Any(kStarting), Any(kCandidateReady), kAlways, kSame,    {kPrepareChannel}},
{Any(kStarting), Any(kChannelReady),   kAlways, kSame,    {kAttach}},
{Any(kStarting), Any(kAttached),       kAlways, kServing, {kBeginServing, kReportRunning}},
{Any(kStarting), Any(kChannelInUse, kShortage, kOwnFault, kInterrupted), kAlways, kShutDown, {}},

// --- A process ends unasked, or has to be killed. ------------------------------------------------
{Any(kServing), Any(kExited),     kAlways, kLost, {kBecomeUnavailable, kReap}},
{Any(kServing), Any(kMisbehaves), kAlways, kLost, {kKill, kBecomeUnavailable, kReap}},
// One that does not die counts as ended: the policy decides what the guest meets meanwhile.
{Any(kLost), Any(kProcessGone, kDoesNotDie), kAlways, kSame, {kReportLoss, kAskPolicy}},
{Any(kLost), Any(kPolicyRestarts), kAlways, kWaiting, {kRetryAfterBackoff, kReportRestarting}},
{Any(kLost), Any(kPolicyStops),    kAlways, kStopped, {kDropSpare, kFailAccesses, kReportStopped}},
{Any(kLost), Any(kPolicyFails),    kAlways, kFailed,  {kDropSpare, kGiveUpAccesses, kReportFailed}},
// A process that did not die in time has died: the next try need not wait for the timer.
{kAway,                  Any(kExited),      kAlways, kSame, {kReap}},
{kAway,                  Any(kDoesNotDie),  kAlways, kSame, {}},
{Any(kWaiting),          Any(kProcessGone), kAlways, kSame, {kRetryNow}},
{Any(kStopped, kFailed), Any(kProcessGone), kAlways, kSame, {}},

// --- A try to have a process serve. --------------------------------------------------------------
// No process gets the descriptors before the one that has them is reaped.
{Any(kWaiting), Any(kTimeToTry),  kHeld,    kSame,    {}},
{Any(kWaiting), Any(kTimeToTry),  kNotHeld, kFinding, {kAwaitEarlierIo}},
{Any(kFinding), Any(kIoInFlight), kAlways,  kWaiting, {kRetrySoon, kReportRestarting}},
{Any(kFinding), Any(kIoEnded),    kAlways,  kSame,    {kTakeSpare}},
{Any(kFinding), Any(kNoSpare),    kAlways,  kSame,    {kStartProcess}},
{Any(kFinding), Any(kSpareTaken, kCandidateReady), kAlways, kAttaching, {kPrepareChannel}},
{Any(kAttaching), Any(kChannelReady), kAlways, kSame,    {kAttach}},
{Any(kAttaching), Any(kChannelInUse), kAlways, kWaiting, {kRetrySoon}},
{Any(kAttaching), Any(kAttached),     kAlways, kServing, {kBeginServing, kReportRunning}},
// The failure of a spare is of no consequence.
{Any(kAttaching), Any(kSpareFailed),  kAlways, kFinding, {kStartProcess}},
{Any(kFinding, kAttaching), Any(kInterrupted), kAlways, kWaiting, {kRetryNow}},
// A shortage of the host is no failure of the device: the policy is not asked.
{Any(kFinding, kAttaching), Any(kShortage), kAlways, kWaiting,
    {kRetryAfterShortage, kReportRestarting}},
{Any(kFinding, kAttaching), Any(kOwnFault), kAlways, kLost, {kReportFailedStart, kAskPolicy}},

// --- Restart: the new process is started first. If it is rejected, nothing has happened. ---------
{kAtRest, kRestarts,            kAlways, kSame, {kPrepareSuccessor}},
{kAtRest, Any(kSuccessorRejected), kAlways, kSame, {kAnswerRejected}},
{Any(kServing), Any(kSuccessorReady), kAlways, kReplacing,
    {kAdoptBinary, kReportTakenAway, kReportRestarting, kQuiesce, kKill, kReap}},
{kAway, Any(kSuccessorReady), kHeld, kReplacing,
    {kAdoptBinary, kReportRestarting, kQuiesce, kKill, kReap}},
{kAway, Any(kSuccessorReady), kNotHeld, kTakingOver,
    {kAdoptBinary, kReportRestarting, kPrepareChannel}},
{Any(kReplacing), Any(kProcessGone),   kAlways, kTakingOver, {kPrepareChannel}},
{Any(kReplacing), Any(kDoesNotDie),    kAlways, kWaiting,    {kBecomeUnavailable, kAnswerLater}},
{Any(kTakingOver), Any(kChannelReady), kAlways, kSame,       {kAttach}},
{Any(kTakingOver), Any(kAttached),     kAlways, kServing,
    {kBeginServing, kReportRunning, kAnswerDone}},
// Any other binary's process would have met with the same: the new binary stays.
{Any(kTakingOver), Any(kChannelInUse, kInterrupted), kAlways, kWaiting,
    {kBecomeUnavailable, kRetrySoon, kReportRestarting, kAnswerLater}},
{Any(kTakingOver), Any(kShortage), kAlways, kWaiting,
    {kBecomeUnavailable, kRetryAfterShortage, kReportRestarting, kAnswerLater}},
// Its own fault: back to the binary that was before, with a try of it.
{Any(kTakingOver), Any(kOwnFault), kHeld, kWaiting,
    {kBecomeUnavailable, kRevertBinary, kAnswerRejected}},
{Any(kTakingOver), Any(kOwnFault), kNotHeld, kFinding,
    {kBecomeUnavailable, kRevertBinary, kAwaitEarlierIo}},
{kAtRest, Any(kFellBack), kAlways, kSame, {kAnswerRejected}},

// --- Stop. ---------------------------------------------------------------------------------------
{Any(kServing), Any(kStop), kAlways, kStopping,
    {kDropSpare, kReportTakenAway, kQuiesce, kKill, kReap}},
{Any(kStopped), Any(kStop), kAlways, kSame, {kDropSpare, kAnswerDone}},
{Any(kWaiting, kFailed), Any(kStop), kHeld,    kStopping, {kDropSpare, kQuiesce, kKill, kReap}},
{Any(kWaiting, kFailed), Any(kStop), kNotHeld, kStopped,
    {kDropSpare, kFailAccesses, kReportStopped, kAnswerDone}},
{Any(kStopping), Any(kProcessGone), kAlways, kStopped,
    {kFailAccesses, kReportStopped, kAnswerDone}},
{Any(kStopping), Any(kDoesNotDie),  kAlways, kStopped,
    {kFailAccesses, kReportStopped, kAnswerLater}},

// --- Start: one try. If it fails, further ones follow as after a loss. ---------------------------
{Any(kServing), Any(kStart), kAlways,  kSame,    {kAnswerDone}},
{kAway,         Any(kStart), kHeld,    kWaiting, {kForgetFailures, kReportRestarting}},
{kAway,         Any(kStart), kNotHeld, kFinding,
    {kForgetFailures, kReportRestarting, kAwaitEarlierIo}},
{Any(kServing), Any(kStartTried), kAlways, kSame, {kAnswerDone}},
{kAway,         Any(kStartTried), kAlways, kSame, {kAnswerNotStarted}},

// --- Reset. A process that cannot reset itself is lost, and then the device is reset while away. -
{Any(kServing),   kResets,           kAlways,  kResetting, {kCallReset}},
{Any(kResetting), Any(kResetDone),   kAlways,  kServing,   {kReportReset, kAnswerDone}},
{Any(kResetting), Any(kResetFailed), kAlways,  kLost,      {kKill, kBecomeUnavailable, kReap}},
{kAway,           kResets,           kHeld,    kSame, {kNoteDiscard, kReportReset, kAnswerLater}},
{kAway,           kResets,           kNotHeld, kSame, {kNoteDiscard, kReportReset, kDiscard}},
{kAway,           Any(kDiscarded),    kAlways, kSame, {kAnswerDone}},
{kAway,           Any(kNotDiscarded), kAlways, kSame, {kAnswerNotDiscarded}},

// --- The VM ends. --------------------------------------------------------------------------------
{kInterruptible, Any(kShutdown), kHeld,    kShutDown,
    {kAnswerShutDown, kDropSpare, kEndProcess, kCloseAccesses}},
{kInterruptible, Any(kShutdown), kNotHeld, kShutDown,
    {kAnswerShutDown, kDropSpare, kCloseAccesses}},
{Any(kShutDown), kCommands, kAlways, kSame, {kAnswerShutDown}},

// --- What is learned in the middle of an action; class Supervision keeps it. ---------------------
{Any(kStarting, kAttaching, kTakingOver), Any(kGuestReset, kRequestsDiscarded, kHandedOver,
    kProcessGone), kAlways, kSame, {}},
{Any(kReplacing, kTakingOver), Any(kRequestsAbandoned), kAlways, kSame, {}},
{kAway, Any(kRequestsDiscarded), kAlways, kSame, {}},
};
// clang-format on

// Events that cannot come in a state: they are not looked for, or no action there has such a
// result.
constexpr Set kNews = Any(kExited, kMisbehaves, kTimeToTry);
constexpr Set kReapResults = Any(kProcessGone, kDoesNotDie);
constexpr Set kPolicyResults = Any(kPolicyRestarts, kPolicyStops, kPolicyFails);
constexpr Set kFindResults = Any(kIoEnded, kIoInFlight, kSpareTaken, kNoSpare, kCandidateReady);
constexpr Set kFailures = Any(kOwnFault, kShortage, kInterrupted);
constexpr Set kAttachResults =
    Any(kChannelReady, kChannelInUse, kAttached, kSpareFailed, kGuestReset, kHandedOver);
constexpr Set kSuccessorResults = Any(kSuccessorReady, kSuccessorRejected);
constexpr Set kResetResults = Any(kResetDone, kResetFailed);
constexpr Set kDiscardResults = Any(kDiscarded, kNotDiscarded);
constexpr Set kRequestFacts = Any(kRequestsAbandoned, kRequestsDiscarded);
constexpr Set kLeftOfCommands = Any(kStartTried, kFellBack);

struct ImpossibleRow {
  State in;
  Set on;
};
// clang-format off
constexpr ImpossibleRow kImpossible[] = {
{kServing,    Any(kTimeToTry) | kReapResults | kPolicyResults | kFindResults | kFailures |
              kAttachResults | kResetResults | kDiscardResults | kRequestFacts},
{kWaiting,    Any(kMisbehaves, kRequestsAbandoned) | kPolicyResults | kFindResults | kFailures |
              kAttachResults | kResetResults},
{kStopped,    Any(kMisbehaves, kTimeToTry, kRequestsAbandoned) | kPolicyResults | kFindResults |
              kFailures | kAttachResults | kResetResults},
{kFailed,     Any(kMisbehaves, kTimeToTry, kRequestsAbandoned) | kPolicyResults | kFindResults |
              kFailures | kAttachResults | kResetResults},
{kStarting,   kNews | kCommands | Any(kDoesNotDie) | kPolicyResults |
              (kFindResults & ~Any(kCandidateReady)) | Any(kSpareFailed) | kSuccessorResults |
              kResetResults | kDiscardResults | Any(kRequestsAbandoned) | kLeftOfCommands},
{kResetting,  kNews | kCommands | kReapResults | kPolicyResults | kFindResults | kFailures |
              kAttachResults | kSuccessorResults | kDiscardResults | kRequestFacts |
              kLeftOfCommands},
{kLost,       Any(kShutdown) | kNews | kCommands | kFindResults | kFailures | kAttachResults |
              kSuccessorResults | kResetResults | kDiscardResults | kRequestFacts |
              kLeftOfCommands},
{kFinding,    kNews | kCommands | kReapResults | kPolicyResults | kAttachResults |
              kSuccessorResults | kResetResults | kDiscardResults | kRequestFacts |
              kLeftOfCommands},
{kAttaching,  kNews | kCommands | Any(kDoesNotDie) | kPolicyResults | kFindResults |
              kSuccessorResults | kResetResults | kDiscardResults | Any(kRequestsAbandoned) |
              kLeftOfCommands},
{kReplacing,  Any(kShutdown) | kNews | kCommands | kPolicyResults | kFindResults | kFailures |
              kAttachResults | kSuccessorResults | kResetResults | kDiscardResults |
              Any(kRequestsDiscarded) | kLeftOfCommands},
{kTakingOver, kNews | kCommands | Any(kDoesNotDie) | kPolicyResults | kFindResults |
              Any(kSpareFailed) | kSuccessorResults | kResetResults | kDiscardResults |
              kLeftOfCommands},
{kStopping,   Any(kShutdown) | kNews | kCommands | kPolicyResults | kFindResults | kFailures |
              kAttachResults | kSuccessorResults | kResetResults | kDiscardResults |
              kRequestFacts | kLeftOfCommands},
{kShutDown,   kAllEvents & ~kCommands},
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
        if (!Has(row.in, State{state}) || !Has(row.on, Event{event})) continue;
        for (const bool held : {false, true}) {
          if (row.when == (held ? kNotHeld : kHeld)) continue;
          SupervisionStep& step = steps[state][event][held];
          if (step.possible) throw "two rows of kTable for one state and event";
          step = {.possible = true,
                  .next = row.next == kSame ? State{state} : row.next,
                  .actions = row.actions};
        }
      }
    }
  }
  for (const ImpossibleRow& row : kImpossible) {
    for (int event = 0; event < kSupervisionEvents; ++event) {
      for (const SupervisionStep& step : steps[static_cast<int>(row.in)][event]) {
        if (step.possible == Has(row.on, Event{event})) {
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
                                           bool held) {
  return kSteps[static_cast<size_t>(state)][static_cast<size_t>(event)][held ? 1 : 0];
}

}  // namespace bulkhead::vmm
