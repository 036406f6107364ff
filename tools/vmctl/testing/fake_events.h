#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_FAKE_EVENTS_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_FAKE_EVENTS_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmctl {

// The events of a fake VM, for any number of readers. Thread-safe.
class FakeEvents {
 public:
  void Append(const v1::Event& event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(event);
  }

  // No more follow.
  void End() {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }

  // Waits for the event number `index`, from 0; false: there will be none.
  bool Await(size_t index, v1::Event& event) {
    absl::MutexLock lock(&mutex_);
    const auto known = [this, index]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return ended_ || index < events_.size();
    };
    mutex_.Await(absl::Condition(&known));
    if (index >= events_.size()) return false;
    event = events_[index];
    return true;
  }

 private:
  absl::Mutex mutex_;
  std::vector<v1::Event> events_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_FAKE_EVENTS_H_
