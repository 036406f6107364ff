#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_SAMPLES_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_SAMPLES_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/report.h"

namespace bulkhead::guest {

// Times that a benchmark has taken, in cycles, and the line that it prints of them.

inline constexpr uint32_t kMaxSamples = 20000;
extern uint64_t samples[kMaxSamples];

void SortSamples(uint32_t count);

// Sorts the first `count`, 1 or more, and prints them: "BENCH name=... min=... p50=..."
template <typename... Parts>
void PrintSamples(uint32_t count, const Parts&... parts) {
  SortSamples(count);
  Print("BENCH ", parts..., " samples=", count, " min=", samples[0], " p50=", samples[count / 2],
        " p90=", samples[count * 9 / 10], " p99=", samples[count * 99 / 100],
        " max=", samples[count - 1], "\n");
}

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_SAMPLES_H_
