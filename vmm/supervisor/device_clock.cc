#include "vmm/supervisor/device_clock.h"

#include <algorithm>

#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {

absl::StatusOr<DeviceClock*> DeviceClock::Get() {
  static DeviceClock* const clock = new DeviceClock;  // its thread uses it to the end
  absl::MutexLock lock(&clock->mutex_);
  if (!clock->runs_) {
    const int error = StartDetachedThread("device-clock", [] { clock->Run(); });
    if (error != 0) return ErrnoToStatus(error, "starting the thread that looks at the clock");
    clock->runs_ = true;
  }
  return clock;
}

void DeviceClock::Add(Client& client) {
  absl::MutexLock lock(&mutex_);
  clients_.insert(&client);
  if (client.Look(SteadyNow()) < next_) changed_.Signal();
}

void DeviceClock::Remove(Client& client) {
  absl::MutexLock lock(&mutex_);
  clients_.erase(&client);
}

void DeviceClock::Change(Client& client, absl::FunctionRef<void()> change) {
  absl::MutexLock lock(&mutex_);
  change();
  if (client.Look(SteadyNow()) < next_) changed_.Signal();
}

void DeviceClock::Run() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const absl::Time now = SteadyNow();
    next_ = absl::InfiniteFuture();
    for (Client* const client : clients_) next_ = std::min(next_, client->Look(now));
    if (next_ == absl::InfiniteFuture()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitUntil(&mutex_, next_);
    }
  }
}

}  // namespace bulkhead::vmm
