#ifndef BULKHEAD_VMM_CONTROL_EVENT_FEED_H_
#define BULKHEAD_VMM_CONTROL_EVENT_FEED_H_

#include <stdint.h>

#include <optional>

#include "proto/vm_control.pb.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// What one subscriber is told next: a snapshot, then event after event, each once, in order. It
// holds no events: a subscriber that comes too late for what the log keeps is told how many it has
// missed, then gets a new snapshot. Thread-compatible.
//
// Every message's sequence is that of the last event that the subscriber knows after it: an event
// follows its predecessor's by one, EventsMissed by its count, and a snapshot does not change it.
//
// Between the log's newest event and a snapshot of the VM, more may happen. A snapshot is
// therefore numbered before it is taken: it takes in every event up to its sequence, because
// whoever appends an event has changed the state before; it may show more than that, and what
// comes after says so again. Nothing is lost.
class EventFeed {
 public:
  // `vm` outlives it. `only_past`: a snapshot, then the events that the log keeps of those before
  // it, then nothing.
  EventFeed(VmOperations& vm, bool only_past) : vm_(vm), only_past_(only_past) {}

  // Nothing: nothing has happened, or complete().
  std::optional<v1::Event> Next();
  bool complete() const { return complete_; }

 private:
  v1::Event TakeSnapshot();
  std::optional<v1::Event> NextOfPast();

  VmOperations& vm_;
  const bool only_past_;
  bool started_ = false;
  bool complete_ = false;
  uint64_t told_ = 0;  // the sequence of the last event that the subscriber knows
  uint64_t end_of_past_ = 0;
  std::optional<v1::Event> snapshot_;  // follows EventsMissed
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_EVENT_FEED_H_
