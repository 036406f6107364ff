#include "integration/testbed/launcher/tsc_frequency.h"

#include <time.h>
#include <x86intrin.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace bulkhead::testbed {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(50);
constexpr int kReadings = 20;

struct Reading {
  uint64_t ticks;
  int64_t ns;
};

// Both clocks at nearly the same time: of several tries, the one that took the fewest ticks was
// not interrupted.
Reading ReadBoth() {
  Reading best = {};
  uint64_t fewest = UINT64_MAX;
  for (int i = 0; i < kReadings; ++i) {
    timespec now;
    const uint64_t before = __rdtsc();
    clock_gettime(CLOCK_MONOTONIC, &now);
    const uint64_t after = __rdtsc();
    if (after - before >= fewest) continue;
    fewest = after - before;
    best = {before + fewest / 2, int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec};
  }
  return best;
}

}  // namespace

int64_t MeasureTscKhz() {
  const Reading start = ReadBoth();
  absl::SleepFor(kInterval);
  const Reading end = ReadBoth();
  return static_cast<int64_t>(static_cast<double>(end.ticks - start.ticks) * 1e6 /
                              static_cast<double>(end.ns - start.ns));
}

}  // namespace bulkhead::testbed
