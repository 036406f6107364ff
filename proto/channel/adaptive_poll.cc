#include "proto/channel/adaptive_poll.h"

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/steady_time.h"

namespace bulkhead::channel {
namespace {

// The time of one iteration of a polling loop on this machine: the least of several tries, because
// a try that another thread interrupts takes too long.
double MeasureIterationNanoseconds() {
  constexpr int kTries = 4;
  constexpr int kIterations = 200;
  const std::atomic<uint64_t> polled{0};
  double least = 1e9;
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < kIterations; ++k) {
      if (polled.load(std::memory_order_acquire) != 0) break;
      PollPause();
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    least = std::min(least, took.count() / kIterations);
  }
  return std::max(least, 0.1);
}

}  // namespace

int64_t AdaptivePoll::SteadyClock() { return absl::ToUnixNanos(SteadyNow()); }

AdaptivePoll::AdaptivePoll(absl::Duration max_poll, Clock* clock)
    : iterations_(0),
      trial_interval_(kTrialInterval * absl::ToInt64Nanoseconds(max_poll)),
      clock_(clock) {
  if (max_poll <= absl::ZeroDuration()) return;
  static const double iteration_ns = MeasureIterationNanoseconds();  // once a process
  const double nanoseconds = absl::ToDoubleNanoseconds(std::min(max_poll, absl::Milliseconds(10)));
  iterations_ = static_cast<uint32_t>(std::max(1.0, nanoseconds / iteration_ns));
}

}  // namespace bulkhead::channel
