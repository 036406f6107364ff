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
#include "proto/vm_control.pb.h"

namespace bulkhead::vmm {

// What has happened to the VM and its devices: the last kKeptEvents of it, numbered from 1, for
// any number of readers, none of which can hold up a writer. Thread-safe.
class EventLog {
 public:
  static constexpr size_t kKeptEvents = 1024;

  // Gives `event` its number and the time, and tells the listeners. The number. What the event is
  // about has changed before: who reads the event, then the state, sees at least that.
  uint64_t Append(v1::Event event);

  // The number of the newest event; 0: none yet.
  uint64_t last_sequence() const;

  // Copies the events after number `after`, oldest first, `limit` at most. If the oldest of them
  // are not kept any more, those that follow: their numbers show the gap.
  std::vector<v1::Event> EventsAfter(uint64_t after, size_t limit) const;

  // `on_append` is called after each Append(), on the appending thread, whatever locks that holds:
  // it may read this log, takes no lock of the VM, and returns at once. Returns a number for
  // Unlisten(), after which it is not called any more and no call is under way; not from within
  // `on_append`.
  uint64_t Listen(std::function<void()> on_append);
  void Unlisten(uint64_t listener);

 private:
  mutable absl::Mutex mutex_;
  uint64_t last_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<v1::Event> events_ ABSL_GUARDED_BY(mutex_);

  absl::Mutex listeners_mutex_;
  uint64_t last_listener_ ABSL_GUARDED_BY(listeners_mutex_) = 0;
  std::map<uint64_t, std::function<void()>> listeners_ ABSL_GUARDED_BY(listeners_mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_EVENT_LOG_H_
