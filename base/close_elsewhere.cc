#include "base/close_elsewhere.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"

namespace bulkhead {
namespace {

// Never destroyed: its thread ends with the process.
class Closer {
 public:
  void Add(std::vector<UniqueFd> descriptors) {
    absl::MutexLock lock(&mutex_);
    for (UniqueFd& fd : descriptors) waiting_.push_back(std::move(fd));
    if (!started_) started_ = StartDetachedThread("closer", [this] { Run(); }) == 0;
  }

 private:
  [[noreturn]] void Run() {
    while (true) {
      std::vector<UniqueFd> closed;  // when it goes out of scope, without the mutex
      mutex_.LockWhen(absl::Condition(
          +[](std::vector<UniqueFd>* waiting) { return !waiting->empty(); }, &waiting_));
      closed.swap(waiting_);
      mutex_.Unlock();
    }
  }

  absl::Mutex mutex_;
  std::vector<UniqueFd> waiting_ ABSL_GUARDED_BY(mutex_);
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

void CloseElsewhere(std::vector<UniqueFd> descriptors) {
  if (descriptors.empty()) return;
  static auto* const closer = new Closer;
  closer->Add(std::move(descriptors));
}

}  // namespace bulkhead
