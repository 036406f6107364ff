#include "vmm/supervisor/supervision.h"

namespace bulkhead::vmm {
namespace {

bool IsCommand(SupervisionEvent event) {
  return event >= SupervisionEvent::kRestart && event <= SupervisionEvent::kStart;
}
// It comes in the middle of an action, which goes on.
bool IsLearned(SupervisionEvent event) {
  return event >= SupervisionEvent::kGuestReset && event <= SupervisionEvent::kHandedOver;
}
bool HasResult(SupervisionAction action) {
  return action >= SupervisionAction::kReap && action <= SupervisionAction::kDiscard;
}
bool IsAnswer(SupervisionAction action) { return action >= SupervisionAction::kAnswerDone; }
bool IsAtRest(SupervisionState state) { return state <= SupervisionState::kFailed; }

}  // namespace

std::vector<SupervisionAction> Supervision::On(Event event) {
  std::vector<Action> actions;
  if (!FindSupervisionStep(state_, event, descriptors_lent_).possible) return actions;
  if (IsCommand(event)) {
    command_ = event == Event::kStart ? Event::kStartTried : event;
    restart_has_discarded_ = false;
  }
  if (!IsLearned(event)) in_action_ = false;
  Learn(event);
  Step(event, actions);
  while (command_.has_value() && !in_action_ && IsAtRest(state_)) Step(*command_, actions);
  return actions;
}

void Supervision::Learn(Event event) {
  switch (event) {
    case Event::kProcessGone:
      descriptors_lent_ = false;
      break;
    case Event::kHandedOver:
      discard_state_ = false;
      break;
    case Event::kAttached:
      discard_until_served_ = false;
      break;
    case Event::kOwnFault:
    case Event::kShortage:
    case Event::kInterrupted:
    case Event::kSpareFailed:
      // What a process that did not come to serve has left may be of a version of its own.
      if (state_ == State::kTakingOver) {
        restart_has_discarded_ = restart_discards_ && !discard_state_;
      }
      discard_state_ |= discard_until_served_;
      break;
    case Event::kDiscarded:
      discard_state_ = discard_until_served_;
      break;
    case Event::kGuestReset:
      discard_state_ = discard_requests_ = true;
      break;
    case Event::kRequestsAbandoned:
      discard_requests_ = true;
      break;
    case Event::kRequestsDiscarded:
      discard_requests_ = false;
      break;
    default:
      break;
  }
}

void Supervision::Step(Event event, std::vector<Action>& actions) {
  const SupervisionStep& step = FindSupervisionStep(state_, event, descriptors_lent_);
  state_ = step.next;
  for (const Action action : step.actions) Add(action, actions);
}

void Supervision::Add(Action action, std::vector<Action>& actions) {
  switch (action) {
    case Action::kNone:
      return;
    case Action::kBecomeUnavailable:
      switch (access_policy_) {
        case AccessPolicy::kWait:
          return Add(Action::kBeginAbsence, actions);
        case AccessPolicy::kAllOnes:
          return Add(Action::kFailAccesses, actions);
        case AccessPolicy::kPauseVm:
          if (!vm_paused_) actions.push_back(Action::kPauseVm);
          vm_paused_ = true;
          return;
      }
      return;
    case Action::kGiveUpAccesses:
      // A command can bring the device back.
      if (access_policy_ != AccessPolicy::kPauseVm) Add(Action::kFailAccesses, actions);
      return;
    case Action::kFailAccesses:
    case Action::kBeginServing:
      actions.push_back(action);
      if (vm_paused_) actions.push_back(Action::kResumeVm);
      vm_paused_ = false;
      return;
    case Action::kAdoptBinary:
      restart_discards_ = command_ == Event::kRestartAnew;
      discard_until_served_ |= restart_discards_;
      discard_state_ |= restart_discards_;
      break;
    case Action::kRevertBinary:
      command_ = Event::kFellBack;
      break;
    case Action::kNoteDiscard:
      discard_state_ = true;
      discard_requests_ |= command_ == Event::kResetForReboot;
      return;
    case Action::kAttach:
      descriptors_lent_ = true;
      break;
    default:
      break;
  }
  if (IsAnswer(action)) {
    if (!command_.has_value()) return;
    command_.reset();
  }
  in_action_ |= HasResult(action);
  actions.push_back(action);
}

bool Supervision::tries_by_itself() const {
  return (state_ == State::kFinding || state_ == State::kAttaching) && !command_.has_value();
}

}  // namespace bulkhead::vmm
