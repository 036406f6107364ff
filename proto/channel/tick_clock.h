#ifndef BULKHEAD_PROTO_CHANNEL_TICK_CLOCK_H_
#define BULKHEAD_PROTO_CHANNEL_TICK_CLOCK_H_

#include <stdint.h>
#include <x86intrin.h>

#include <chrono>

namespace bulkhead::channel {

// Measures times of microseconds, for metrics. Reads the CPU's time-stamp counter if that has a
// constant rate (9 ns here), else the steady_clock (23 ns). Immutable, so thread-safe.
class TickClock {
 public:
  // The first one in a process measures the counter's rate, in 0.1 ms.
  TickClock();

  uint64_t Now() const {
    if (counter_) return __rdtsc();
    return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  }

  // Nanoseconds since `start`, which Now() gave. Zero if the thread has moved to a CPU whose
  // counter is behind.
  uint64_t NanosecondsSince(uint64_t start) const {
    const uint64_t now = Now();
    if (now <= start) return 0;
    return static_cast<uint64_t>((static_cast<unsigned __int128>(now - start) * scale_) >> 32);
  }

 private:
  const bool counter_;    // the time-stamp counter is used
  const uint64_t scale_;  // nanoseconds a tick, times 2^32
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_TICK_CLOCK_H_
