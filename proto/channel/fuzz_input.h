#ifndef BULKHEAD_PROTO_CHANNEL_FUZZ_INPUT_H_
#define BULKHEAD_PROTO_CHANNEL_FUZZ_INPUT_H_

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

namespace bulkhead::channel {

// A fuzzer's bytes, taken one after the other. Zeroes once they are used up.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  bool empty() const { return next_ == end_; }
  uint8_t Byte() { return empty() ? 0 : *next_++; }
  uint64_t Word() {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word = word << 8 | Byte();
    return word;
  }
  // Mostly close to `around`, sometimes anything.
  uint64_t Near(uint64_t around) {
    const uint8_t how = Byte();
    return how < 240 ? around + how % 16 - 7 : Word();
  }

 private:
  const uint8_t* next_;
  const uint8_t* const end_;
};

inline void FuzzExpect(bool holds, const char* what, int line) {
  if (holds) return;
  fprintf(stderr, "line %d: %s\n", line, what);
  abort();
}

}  // namespace bulkhead::channel

#define FUZZ_EXPECT(condition) ::bulkhead::channel::FuzzExpect(condition, #condition, __LINE__)

#endif  // BULKHEAD_PROTO_CHANNEL_FUZZ_INPUT_H_
