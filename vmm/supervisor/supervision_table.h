#ifndef BULKHEAD_VMM_SUPERVISOR_SUPERVISION_TABLE_H_
#define BULKHEAD_VMM_SUPERVISOR_SUPERVISION_TABLE_H_

#include <array>

namespace bulkhead::vmm {

// The states of a device's supervision. In the first four the supervisor waits for something to
// happen; in the others an action is under way, and its result is the next event.
enum class SupervisionState {
  kServing,     // a process serves
  kWaiting,     // for the time of the next try, or for the death of a process that was killed
  kStopped,     // by a command, or it ended by itself with exit code 0 under policy ON_FAILURE
  kFailed,      // too many crashes, or policy NEVER
  kStarting,    // the first process is attached
  kResetting,   // the process resets itself
  kLost,        // the process is reaped, or a start has failed; then the restart policy decides
  kFinding,     // a process that can serve: the spare, or a new one
  kAttaching,   // that process
  kReplacing,   // the process ends because of a restart command
  kTakingOver,  // the process of the restart command is attached
  kStopping,    // the process ends because of a stop command
  kShutDown,    // the VM ends, or the first process was not attached
};
inline constexpr int kSupervisionStates = 13;

enum class SupervisionEvent {
  // What happens.
  kExited,  // the process with the descriptors, also one that was killed and did not die in time
  kMisbehaves,  // the process hangs, or broke the protocol
  kTimeToTry,   // the timer has run out
  kVmEnds,
  // Commands.
  kRestart,
  kRestartAnew,  // with --discard-state
  kReset,
  kResetForReboot,
  kStop,
  kStart,
  // Results of actions, in the order of the actions.
  kProcessGone,  // reaped, or it did not get the descriptors; comes in the middle of kAttach, too
  kDoesNotDie,   // although killed: it keeps the descriptors
  kPolicyRestarts,
  kPolicyStops,
  kPolicyFails,
  kIoEnded,  // of the dead process
  kIoInFlight,
  kSpareTaken,
  kNoSpare,  // or none that is compatible
  kCandidateReady,
  kChannelReady,
  kChannelInUse,
  kAttached,
  kSpareFailed,  // it did not attach, and does not have the descriptors
  kOwnFault,     // the process could not be started or attached, by a fault of its own
  kShortage,     // ... because of something that the host lacks
  kInterrupted,  // ... because of a command
  kSuccessorReady,
  kSuccessorRejected,
  kResetDone,
  kResetFailed,
  kDiscarded,
  kNotDiscarded,
  // What is learned in the middle of an action.
  kGuestReset,         // the guest has reset the device while it was away
  kRequestsAbandoned,  // no access waits for an answer to what is in the channel
  kRequestsDiscarded,
  kHandedOver,  // the process has the descriptors, and the old state is discarded if it had to be
  // Come at rest, in place of a command whose actions are done but which is not answered yet.
  kStartTried,
  kFellBack,  // from the process of a restart command to the previous binary
};
inline constexpr int kSupervisionEvents = 39;

enum class SupervisionAction {
  kNone,
  // Those that have a result. Each is the last one of its row. While the VM ends, kStartProcess,
  // kPrepareChannel, kAttach, kStartSuccessor and kCallReset give kVmEnds instead of a failure.
  kReap,            // kProcessGone, kDoesNotDie, within two seconds
  kAskPolicy,       // kPolicyRestarts, kPolicyStops, kPolicyFails
  kAwaitEarlierIo,  // kIoEnded, kIoInFlight
  kTakeSpare,       // kSpareTaken, kNoSpare
  kStartProcess,    // kCandidateReady, kOwnFault, kShortage, kInterrupted
  kPrepareChannel,  // kChannelReady, kChannelInUse, kShortage
  kAttach,          // kAttached, kSpareFailed, kOwnFault, kShortage, kInterrupted
  kStartSuccessor,  // kSuccessorReady, kSuccessorRejected; kExited: repeated after the loss
  kCallReset,       // kResetDone, kResetFailed
  kDiscard,         // kDiscarded, kNotDiscarded
  // The process.
  kKill,
  kQuiesce,       // lets it finish what it has begun, so that a successor repairs nothing
  kEndProcess,    // it may finish what the guest has sent; then it is killed and reaped
  kBeginServing,  // heartbeats, output; ends the failure of accesses
  kAdoptBinary,   // of the restart command; drops the spare, forgets failures
  kRevertBinary,  // to the previous one
  kNoteDiscard,   // the state, and at a reboot the channel's requests, before a process attaches
  kForgetFailures,
  kDropSpare,
  // The guest.
  kBecomeUnavailable,  // by access policy: kBeginAbsence, kFailAccesses or kPauseVm
  kGiveUpAccesses,     // by access policy: kFailAccesses, or the VM stays paused
  kBeginAbsence,       // accesses wait; the VM is held if that takes long
  kFailAccesses,       // and resumes the VM
  kPauseVm,
  kResumeVm,
  kCloseAccesses,  // the VM ends
  // The timer.
  kRetryNow,
  kRetrySoon,           // the obstacle lasts for milliseconds as a rule
  kRetryAfterBackoff,   // as the restart policy says: the first at once
  kRetryAfterShortage,  // as HostShortage says
  // Reports.
  kReportRunning,
  kReportRestarting,
  kReportStopped,
  kReportFailed,
  kReportLoss,
  kReportTakenAway,  // a process that serves ends because of a command
  kReportFailedStart,
  kReportReset,
  // Answers of commands.
  kAnswerDone,
  kAnswerLater,     // it is obeyed, but not yet
  kAnswerRejected,  // the process of a restart command
  kAnswerNotStarted,
  kAnswerNotDiscarded,
  kAnswerVmEnds,
};

// What follows from an event in a state.
struct SupervisionStep {
  bool possible = false;  // false: such an event does not come in that state, and is ignored
  SupervisionState next = SupervisionState::kShutDown;
  std::array<SupervisionAction, 6> actions = {};  // kNone after the last one
};

// `descriptors_lent`: a process has the device's descriptors, or may have them.
const SupervisionStep& FindSupervisionStep(SupervisionState state, SupervisionEvent event,
                                           bool descriptors_lent);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SUPERVISION_TABLE_H_
