#ifndef BULKHEAD_VMM_CONTROL_EVENT_FEED_H_
#define BULKHEAD_VMM_CONTROL_EVENT_FEED_H_

#include <stdint.h>

#include <optional>

#include "proto/vm_control.pb.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// The messages for one subscriber: a snapshot, then each event once, in order. It stores no events:
// a subscriber that is too late for the events that the log keeps gets EventsMissed with their
// number, then a new snapshot. Thread-compatible.
//
// Every message's sequence is that of the last event that the subscriber knows after it: an event
// adds one, EventsMissed adds its count, and a snapshot adds nothing.
//
// The state may change between the log's newest event and a snapshot of the VM. So a snapshot is
// numbered before it is taken: it contains every event up to its sequence, because the state is
// changed before its event is appended. It may contain later changes, too; their events follow.
// Nothing is lost.
class EventFeed {
 public:
  // `vm` must outlive this. `only_past`: a snapshot, then the events before it that the log keeps,
  // then nothing.
  EventFeed(VmOperations& vm, bool only_past) : vm_(vm), only_past_(only_past) {}

  // The next message. Nullopt if there is none yet, or complete().
  std::optional<v1::Event> Next();
  bool complete() const { return complete_; }

 private:
  v1::Event TakeSnapshot();
  std::optional<v1::Event> NextOfPast();

  VmOperations& vm_;
  const bool only_past_;
  bool started_ = false;
  bool complete_ = false;
  uint64_t last_sent_ = 0;  // the sequence of the last event that the subscriber knows
  uint64_t end_of_past_ = 0;
  std::optional<v1::Event> snapshot_;  // to send after EventsMissed
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_EVENT_FEED_H_
