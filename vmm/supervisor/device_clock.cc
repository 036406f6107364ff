#include "vmm/supervisor/device_clock.h"

#include <algorithm>

#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

void DemandAttention(const DeviceClock::Demands& demands) {
  for (const std::shared_ptr<Attention>& attention : demands) {
    attention->Demand(Attention::Urgency::kNews);
  }
}

}  // namespace

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

void DeviceClock::Look(Client& client, Demands& demands) {
  if (client.Look(SteadyNow(), demands) < next_) changed_.Signal();
}

void DeviceClock::Add(Client& client) {
  Demands demands;
  {
    absl::MutexLock lock(&mutex_);
    clients_.insert(&client);
    Look(client, demands);
  }
  DemandAttention(demands);
}

void DeviceClock::Remove(Client& client) {
  absl::MutexLock lock(&mutex_);
  clients_.erase(&client);
}

void DeviceClock::Change(Client& client, absl::FunctionRef<void()> change) {
  Demands demands;
  {
    absl::MutexLock lock(&mutex_);
    change();
    Look(client, demands);
  }
  DemandAttention(demands);
}

void DeviceClock::Run() {
  mutex_.Lock();
  while (true) {
    const absl::Time now = SteadyNow();
    Demands demands;
    next_ = absl::InfiniteFuture();
    for (Client* const client : clients_) next_ = std::min(next_, client->Look(now, demands));
    if (!demands.empty()) {
      mutex_.Unlock();
      DemandAttention(demands);
      mutex_.Lock();  // and once more: there may be others by now
    } else if (next_ == absl::InfiniteFuture()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitUntil(&mutex_, next_);
    }
  }
}

}  // namespace bulkhead::vmm
