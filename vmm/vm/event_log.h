#ifndef BULKHEAD_VMM_VM_EVENT_LOG_H_
#define BULKHEAD_VMM_VM_EVENT_LOG_H_

#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmm {

// The last kKeptEvents events of the VM and its devices, numbered from 1, for any number of
// readers. A reader cannot delay a writer. Thread-safe.
class EventLog {
 public:
  static constexpr size_t kKeptEvents = 1024;

  // Gives `event` its number and the time, calls the listeners, and returns the number. Change the
  // state before the call: a reader that sees the event then also sees the new state.
  uint64_t Append(v1::Event event);

  // The number of the newest event; 0 if there is none yet.
  uint64_t last_sequence() const;

  // Copies the events after number `after`, oldest first, `limit` at most. Skips those that are not
  // kept any more: the numbers show the gap.
  std::vector<v1::Event> EventsAfter(uint64_t after, size_t limit) const;

  struct TimedEvent {
    v1::Event event;
    absl::Time appended;  // as SteadyNow(), which setting the wall clock does not change
  };
  // The same with that time.
  std::vector<TimedEvent> TimedEventsAfter(uint64_t after, size_t limit) const;

  // Calls `on_append` after each Append(), on the appending thread, which may hold locks of the VM:
  // `on_append` may read this log, must take no lock of the VM, and must return at once. Returns
  // the number for Unlisten(). When Unlisten() returns, no call of `on_append` is running or will
  // follow; do not call it from `on_append`.
  uint64_t Listen(std::function<void()> on_append);
  void Unlisten(uint64_t listener);

 private:
  mutable absl::Mutex mutex_;
  uint64_t last_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<TimedEvent> events_ ABSL_GUARDED_BY(mutex_);

  absl::Mutex listeners_mutex_;
  uint64_t last_listener_ ABSL_GUARDED_BY(listeners_mutex_) = 0;
  std::map<uint64_t, std::function<void()>> listeners_ ABSL_GUARDED_BY(listeners_mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_EVENT_LOG_H_
