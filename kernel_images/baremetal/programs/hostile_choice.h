#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_CHOICE_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_CHOICE_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/random.h"

// The choices of hostile_driver: all follow from its seed.

namespace bulkhead::guest::hostile {

inline constexpr uint64_t kMiB = 1 << 20;

inline constinit Random rng(1);

inline uint64_t Below(uint64_t bound) { return (rng.Next() >> 16) % bound; }
inline bool OneIn(uint64_t n) { return Below(n) == 0; }

// Mistakes are made one in `n` times, but only during operations that are to have some: a device
// that is broken all the time does little work.
inline bool flawed;
inline bool Flaw(uint64_t n) { return flawed && OneIn(n); }

inline uint64_t SomeValue() {
  switch (Below(6)) {
    case 0:
      return Below(4);
    case 1:
      return ~uint64_t{0} >> Below(8);
    case 2:
      return Below(0x10000);
    case 3:
      return uint64_t{1} << (24 + Below(40));
    case 4:
      return Below(64);
    default:
      return rng.Next() | 0x8000'0000;  // no address of RAM in either half of a register
  }
}

// Of a buffer.
inline uint32_t BufferLength() {
  switch (flawed ? Below(12) : 11 - Below(10)) {
    case 0:
      return 0;
    case 1:
      return static_cast<uint32_t>(~Below(16));  // nearly 4 GiB
    case 2:
      return static_cast<uint32_t>(Below(4 * kMiB));
    case 3:
      return static_cast<uint32_t>(Below(600));
    default:
      return static_cast<uint32_t>(512 * (1 + Below(16)));
  }
}

}  // namespace bulkhead::guest::hostile

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_CHOICE_H_
