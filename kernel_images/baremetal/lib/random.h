#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_RANDOM_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_RANDOM_H_

#include <stdint.h>

namespace bulkhead::guest {

// A sequence of random numbers (xorshift64*): the same for the same seed, which is not 0. The
// lowest bits are the least random.
class Random {
 public:
  constexpr explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }

 private:
  uint64_t state_;
};

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_RANDOM_H_
