#include "base/close_elsewhere.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/detached_thread.h"
#include "base/log.h"
#include "base/steady_time.h"

namespace bulkhead {
namespace {

// A close that does not block takes much less.
constexpr absl::Duration kLong = absl::Seconds(1);

struct Close {
  UniqueFd fd;
  std::shared_ptr<PendingCloses> owner;
};

// Never destroyed: its threads end with the process. One of them at least stays.
class Closers {
 public:
  void Add(std::vector<UniqueFd> descriptors, const std::shared_ptr<PendingCloses>& owner) {
    if (owner != nullptr) owner->Add(descriptors.size());
    absl::MutexLock lock(&mutex_);
    for (UniqueFd& fd : descriptors) waiting_.push_back({std::move(fd), owner});
    if (!waiting_.empty() && idle_ == 0) StartOne();
  }

 private:
  void StartOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (threads_ == kMaxClosers) {
      if (SteadyNow() - last_done_ > kLong && !std::exchange(warned_, true)) {
        LogWarning(absl::StrCat("closing ", threads_, " descriptors of device processes blocks, ",
                                waiting_.size(), " more wait to be closed"));
      }
      return;
    }
    if (threads_ == 0) last_done_ = SteadyNow();
    if (StartDetachedThread("closer", [this] { Run(); }) == 0) ++threads_;
  }

  void Run() {
    mutex_.Lock();
    // More idle threads than one are not needed.
    while (idle_ == 0 || !waiting_.empty()) {
      ++idle_;
      mutex_.Await(absl::Condition(+[](std::deque<Close>* w) { return !w->empty(); }, &waiting_));
      --idle_;
      Close next = std::move(waiting_.front());
      waiting_.pop_front();
      // This close may block for ever.
      if (!waiting_.empty() && idle_ == 0) StartOne();
      mutex_.Unlock();
      next.fd.reset();
      if (next.owner != nullptr) next.owner->Done();
      mutex_.Lock();
      last_done_ = SteadyNow();
      warned_ = warned_ && !waiting_.empty();
    }
    --threads_;
    mutex_.Unlock();
  }

  absl::Mutex mutex_;
  std::deque<Close> waiting_ ABSL_GUARDED_BY(mutex_);
  size_t threads_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;  // of the threads, those that wait for work
  absl::Time last_done_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool warned_ ABSL_GUARDED_BY(mutex_) = false;
};

Closers& TheClosers() {
  static auto* const closers = new Closers;
  return *closers;
}

}  // namespace

size_t PendingCloses::count() const {
  absl::MutexLock lock(&mutex_);
  return count_;
}

bool PendingCloses::WaitForFewerThan(size_t limit, absl::Duration timeout) const {
  const absl::Time deadline = SteadyNow() + timeout;
  TheClosers().Add({}, nullptr);  // perhaps a thread can be started now
  absl::MutexLock lock(&mutex_);
  while (count_ >= limit && fewer_.WaitUntil(&mutex_, deadline)) {
  }
  return count_ < limit;
}

void PendingCloses::Add(size_t closes) {
  absl::MutexLock lock(&mutex_);
  count_ += closes;
}

void PendingCloses::Done() {
  absl::MutexLock lock(&mutex_);
  --count_;
  fewer_.SignalAll();
}

void CloseElsewhere(std::vector<UniqueFd> descriptors,
                    const std::shared_ptr<PendingCloses>& owner) {
  if (descriptors.empty()) return;
  TheClosers().Add(std::move(descriptors), owner);
}

void CloseElsewhere(UniqueFd descriptor, const std::shared_ptr<PendingCloses>& owner) {
  if (!descriptor.ok()) return;
  std::vector<UniqueFd> one;
  one.push_back(std::move(descriptor));
  CloseElsewhere(std::move(one), owner);
}

}  // namespace bulkhead
