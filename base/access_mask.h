#ifndef BULKHEAD_BASE_ACCESS_MASK_H_
#define BULKHEAD_BASE_ACCESS_MASK_H_

#include <stdint.h>

namespace bulkhead {

// The bits that an access of `size_bytes` covers: all of them from 8 bytes on.
constexpr uint64_t AccessMask(uint8_t size_bytes) {
  return size_bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * size_bytes)) - 1;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_ACCESS_MASK_H_
