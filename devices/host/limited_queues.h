#ifndef BULKHEAD_DEVICES_HOST_LIMITED_QUEUES_H_
#define BULKHEAD_DEVICES_HOST_LIMITED_QUEUES_H_

#include <stdint.h>

#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/host/rate_limiter.h"

namespace bulkhead::devices {

// Queues of a device that share rate limits. While one holds, what is in the queues waits there,
// and one timer ends that, a few hundred times a second at most: nothing polls. Then the queues
// take turns. Runs on the device's thread.
class LimitedQueues {
 public:
  LimitedQueues() = default;
  ~LimitedQueues();
  LimitedQueues(const LimitedQueues&) = delete;
  LimitedQueues& operator=(const LimitedQueues&) = delete;

  // Without `limits` no queue ever waits. `debt`: see RateDebt. `on_tokens` is called when a wait
  // has ended, and may call NextTurn(). Borrows `host` and `debt`. Errors: as timerfd_create(2).
  absl::Status Start(DeviceServices& host, const RateLimits& limits, uint32_t queues,
                     RateDebt& debt, std::function<void()> on_tokens);
  // In a successor.
  void Resume();

  // True: nothing may be taken from `queue` now; NextTurn() will name it.
  bool MustWait(uint32_t queue) { return limiter_.has_value() && Waits(queue); }
  // So much was taken from a queue.
  void Take(uint64_t operations, uint64_t bytes);
  // A queue that has waited, and whose turn it is. nullopt: none waits, or all have to. Call it
  // again after the turn: what that has left is for others.
  std::optional<uint32_t> NextTurn();
  // How often the limits began to hold.
  uint64_t times_limited() const { return times_limited_; }

 private:
  bool Waits(uint32_t queue);
  // True: no token is there, and the timer runs.
  bool IsLimited();
  void OnTimer();

  DeviceServices* host_ = nullptr;
  std::optional<RateLimiter> limiter_;
  std::function<void()> on_tokens_;
  UniqueFd timer_;
  bool timer_runs_ = false;
  std::vector<bool> waiting_;  // by queue
  uint32_t next_ = 0;          // the first to be asked whether it waits
  uint64_t times_limited_ = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_LIMITED_QUEUES_H_
