#ifndef BULKHEAD_BASE_TESTING_FUZZ_INPUT_H_
#define BULKHEAD_BASE_TESTING_FUZZ_INPUT_H_

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "absl/strings/string_view.h"

namespace bulkhead {

// A fuzzer's bytes, taken one after the other. Zeros once they are used up.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  bool empty() const { return next_ == end_; }
  uint8_t Byte() { return empty() ? 0 : *next_++; }
  // The next `bytes` bytes (at most 8), little-endian.
  uint64_t Take(int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= uint64_t{Byte()} << (8 * i);
    return value;
  }
  // Mostly close to `around`, sometimes anything.
  uint64_t Near(uint64_t around) {
    const uint8_t how = Byte();
    return how < 240 ? around + how % 16 - 7 : Take(8);
  }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

// What a fuzzer takes for a finding: the process aborts, having said where and `what`.
inline void Require(bool holds, absl::string_view what = "does not hold",
                    const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (holds) return;
  fprintf(stderr, "%s:%d: broken: %.*s\n", file, line, static_cast<int>(what.size()), what.data());
  abort();
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_FUZZ_INPUT_H_
