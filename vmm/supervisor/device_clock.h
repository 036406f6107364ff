#ifndef BULKHEAD_VMM_SUPERVISOR_DEVICE_CLOCK_H_
#define BULKHEAD_VMM_SUPERVISOR_DEVICE_CLOCK_H_

#include <memory>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/steady_cond_var.h"
#include "vmm/supervisor/attention.h"

namespace bulkhead::vmm {

// Does at its time what is due for any device, on one thread for all devices of the process. All
// times are SteadyNow()'s. Thread-safe.
class DeviceClock {
 public:
  using Demands = std::vector<std::shared_ptr<Attention>>;

  class Client {
   public:
    // Does what is due at `now`, and returns when to look again; InfiniteFuture: never. Called
    // under the clock's lock, at any time: must return at once, and not call the clock. Those whose
    // attention is to be demanded (kNews) it adds to `demands`: what that interrupts may take long.
    virtual absl::Time Look(absl::Time now, Demands& demands) = 0;

   protected:
    ~Client() = default;
  };

  // The process's only one. Errors: as pthread_create(3).
  static absl::StatusOr<DeviceClock*> Get();

  // Look() is called from Add() on, and not any more once Remove() has returned.
  void Add(Client& client);
  void Remove(Client& client);
  // Calls `change`, which may change what Look() uses, and then Look().
  void Change(Client& client, absl::FunctionRef<void()> change);

 private:
  DeviceClock() = default;

  [[noreturn]] void Run();
  // Looks at `client` alone.
  void Look(Client& client, Demands& demands) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool runs_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Client*> clients_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // when the thread looks
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_DEVICE_CLOCK_H_
