#ifndef BULKHEAD_VMM_SUPERVISOR_ATTENTION_H_
#define BULKHEAD_VMM_SUPERVISOR_ATTENTION_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"

namespace bulkhead::vmm {

// Wakes one thread, the owner, when there is something to look at, whether it sleeps or waits for
// an answer that may never come. What there is to look at is kept elsewhere: change it first, then
// call Demand().
//
//   while (true) {
//     attention.Take();
//     <look at everything there is; if there was anything to do, do it, and continue>
//     attention.Wait(...);
//   }
//
// No demand is lost: one that comes after Take() makes Wait() return at once, and interrupts the
// interruptible waits in between.
class Attention {
 public:
  // What a demand is important enough to interrupt.
  enum class Urgency {
    kNone,
    kNews,     // a process has ended, a command has come. Interrupts idle work
    kCommand,  // stop or restart. Interrupts a try that no command has asked for
    kEnd,      // the VM ends. Interrupts everything
  };

  // Errors: as eventfd(2).
  static absl::StatusOr<std::shared_ptr<Attention>> Create();

  // Any thread.
  void Demand(Urgency urgency);

  // The owner's. Clears all demands until now: the owner is about to look at everything.
  void Take();
  // Waits for a demand that was not taken, for `limit` at most.
  void Wait(absl::Duration limit) const;

  // While this lives on the owner's stack, a demand of at least `least` calls `interrupt`, once,
  // on the demanding thread, or on the owner's if it was there before and was not taken.
  // `interrupt` must return at once.
  class Interruptible {
   public:
    Interruptible(Attention& attention, Urgency least, std::function<void()> interrupt);
    ~Interruptible();  // `interrupt` is not called any more
    bool interrupted() const;

   private:
    friend class Attention;

    Attention& attention_;
    const Urgency least_;
    const std::function<void()> interrupt_;
    bool interrupted_ = false;  // guarded by attention_.mutex_
  };

 private:
  explicit Attention(EventFd event) : event_(std::move(event)) {}

  void InterruptIfUrgent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd event_;  // readable: something is demanded
  mutable absl::Mutex mutex_;
  Urgency demanded_ ABSL_GUARDED_BY(mutex_) = Urgency::kNone;  // and not taken
  Interruptible* wait_ ABSL_GUARDED_BY(mutex_) = nullptr;      // the one under way
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_ATTENTION_H_
