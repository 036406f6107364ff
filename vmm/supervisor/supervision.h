#ifndef BULKHEAD_VMM_SUPERVISOR_SUPERVISION_H_
#define BULKHEAD_VMM_SUPERVISOR_SUPERVISION_H_

#include <compare>
#include <optional>
#include <vector>

#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/supervision_table.h"

namespace bulkhead::vmm {

// The state machine of one device's supervisor: supervision_table.cc, and what the table leaves
// out: who has the descriptors, what is to be discarded, which command is not answered yet, and
// what the access policy makes of a device that is away. Pure. Thread-compatible.
//
// The caller carries the actions out in their order. If the last one has a result, that is the next
// event; else the device is at rest, and the next event is what happens next.
class Supervision {
 public:
  explicit Supervision(AccessPolicy access_policy) : access_policy_(access_policy) {}

  // Empty: nothing to do, or the event is impossible in this state and ignored.
  std::vector<SupervisionAction> On(SupervisionEvent event);

  SupervisionState state() const { return state_; }
  // Before the next attachment: the state is to be discarded; what is in the channel, too.
  bool discard_state() const { return discard_state_; }
  bool discard_requests() const { return discard_requests_; }
  // Of the restart command under way, or the last one: it is to discard the state; it did, and its
  // process then failed.
  bool restart_discards() const { return restart_discards_; }
  bool restart_has_discarded() const { return restart_has_discarded_; }
  // True during a try that no command has asked for: commands to stop and restart interrupt it.
  bool tries_by_itself() const;

  auto operator<=>(const Supervision&) const = default;

 private:
  using State = SupervisionState;
  using Event = SupervisionEvent;
  using Action = SupervisionAction;

  void Learn(Event event);
  void Step(Event event, std::vector<Action>& actions);
  void Add(Action action, std::vector<Action>& actions);

  AccessPolicy access_policy_;
  State state_ = State::kStarting;
  bool in_action_ = false;             // its result is the next event
  bool descriptors_lent_ = false;      // a process has the descriptors, or may have them
  bool vm_paused_ = false;             // by kPauseVm
  bool discard_state_ = false;         // kept until a process has the descriptors
  bool discard_until_served_ = false;  // by a restart command: at each attachment, until one serves
  bool discard_requests_ = false;      // kept until it is done
  bool restart_discards_ = false;
  bool restart_has_discarded_ = false;
  // The event that comes at rest while a command is not answered: the command itself, if it waits
  // for the end of a loss, or kStartTried or kFellBack. None: no command.
  std::optional<Event> command_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SUPERVISION_H_
