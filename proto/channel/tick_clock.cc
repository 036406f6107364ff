#include "proto/channel/tick_clock.h"

#include <cpuid.h>

namespace bulkhead::channel {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr uint64_t kScaleOne = uint64_t{1} << 32;

bool CounterIsInvariant() {
  constexpr unsigned kPowerManagementLeaf = 0x80000007;
  constexpr unsigned kInvariantCounter = 1 << 8;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(kPowerManagementLeaf, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & kInvariantCounter) != 0;
}

// Both clocks, read at one moment: the reading that took the fewest ticks, of several.
struct Moment {
  uint64_t ticks = 0;
  SteadyClock::time_point time;

  static Moment Now() {
    Moment best;
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 8; ++i) {
      const uint64_t before = __rdtsc();
      const SteadyClock::time_point time = SteadyClock::now();
      const uint64_t took = __rdtsc() - before;
      if (took >= least) continue;
      least = took;
      best = {.ticks = before + took / 2, .time = time};
    }
    return best;
  }
};

uint64_t MeasureScale() {
  const Moment start = Moment::Now();
  while (SteadyClock::now() - start.time < std::chrono::microseconds(100)) _mm_pause();
  const Moment end = Moment::Now();
  const std::chrono::duration<double, std::nano> took = end.time - start.time;
  return static_cast<uint64_t>(took.count() / static_cast<double>(end.ticks - start.ticks) *
                               static_cast<double>(kScaleOne));
}

uint64_t Scale(bool counter) {
  if (!counter) return kScaleOne;
  static const uint64_t scale = MeasureScale();
  return scale;
}

}  // namespace

TickClock::TickClock() : counter_(CounterIsInvariant()), scale_(Scale(counter_)) {}

}  // namespace bulkhead::channel
