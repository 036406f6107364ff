#include "vmm/supervisor/absence.h"

#include <algorithm>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/memory/memory.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

// How often to check whether the guest uses the device by now.
constexpr absl::Duration kUseInterval = absl::Milliseconds(500);

}  // namespace

// The process's only one, and its thread.
class Absence::Clock {
 public:
  static absl::StatusOr<Clock*> Get() {
    static Clock* const clock = new Clock;  // its thread uses it to the end
    absl::MutexLock lock(&clock->mutex_);
    if (!clock->runs_) {
      const int error = StartDetachedThread("absence", [] { clock->Run(); });
      if (error != 0) return ErrnoToStatus(error, "starting the thread that looks at the clock");
      clock->runs_ = true;
    }
    return clock;
  }

  void Add(Absence* absence) {
    absl::MutexLock lock(&mutex_);
    all_.insert(absence);
  }
  void Remove(Absence* absence) {
    absl::MutexLock lock(&mutex_);
    all_.erase(absence);
  }
  void Change(Absence& absence, absl::Time since) {
    absl::MutexLock lock(&mutex_);
    absence.since_ = since;
    if (absence.Look(SteadyNow()) < next_) changed_.Signal();
  }

 private:
  [[noreturn]] void Run() {
    absl::MutexLock lock(&mutex_);
    while (true) {
      const absl::Time now = SteadyNow();
      next_ = absl::InfiniteFuture();
      for (Absence* const absence : all_) next_ = std::min(next_, absence->Look(now));
      if (next_ == absl::InfiniteFuture()) {
        changed_.Wait(&mutex_);
      } else {
        changed_.WaitUntil(&mutex_, next_);
      }
    }
  }

  absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool runs_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Absence*> all_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // when the thread looks
};

absl::StatusOr<std::unique_ptr<Absence>> Absence::Create(Options options) {
  ASSIGN_OR_RETURN(Clock* const clock, Clock::Get());
  std::unique_ptr<Absence> absence = absl::WrapUnique(new Absence(*clock, std::move(options)));
  clock->Add(absence.get());
  return absence;
}

Absence::~Absence() { clock_.Remove(this); }

void Absence::Begin(absl::Time since) { clock_.Change(*this, since); }
void Absence::End() { clock_.Change(*this, absl::InfiniteFuture()); }

absl::Time Absence::Look(absl::Time now) {
  const bool due = since_ != absl::InfiniteFuture() && now >= since_ + options_.before_hold &&
                   now < since_ + options_.timeout;
  const bool hold = due && options_.is_used();
  if (hold != held_) {
    held_ = hold;
    options_.hold(hold);
  }
  if (due) return hold ? since_ + options_.timeout : now + kUseInterval;
  return now < since_ + options_.before_hold ? since_ + options_.before_hold
                                             : absl::InfiniteFuture();
}

}  // namespace bulkhead::vmm
