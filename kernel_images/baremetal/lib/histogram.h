#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_HISTOGRAM_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_HISTOGRAM_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/memory.h"

namespace bulkhead::guest {

// Counts latencies: exactly below kSteps cycles, from there on in kSteps steps an octave.
class Histogram {
 public:
  void Clear() { memset(counts_, 0, sizeof(counts_)); }

  void Add(uint64_t cycles) {
    const uint32_t shift =
        cycles < kSteps ? 0 : 57 - static_cast<uint32_t>(__builtin_clzll(cycles));
    ++counts_[shift * kSteps + (cycles >> shift)];
  }

  void Add(const Histogram& other) {
    for (uint32_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
  }

  // The value that `percent` of the `total` are not above.
  uint64_t Percentile(uint32_t percent, uint64_t total) const {
    uint64_t left = total * percent / 100;
    uint32_t index = 0;
    while (index < kBuckets - 1 && left >= counts_[index]) left -= counts_[index++];
    if (index < 2 * kSteps) return index;
    const uint32_t shift = index / kSteps - 1;
    return (uint64_t{index} - shift * kSteps) << shift;
  }

 private:
  static constexpr uint64_t kSteps = 64;
  static constexpr uint32_t kBuckets = 59 * kSteps;
  uint32_t counts_[kBuckets];
};

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_HISTOGRAM_H_
