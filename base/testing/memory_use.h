#ifndef BULKHEAD_BASE_TESTING_MEMORY_USE_H_
#define BULKHEAD_BASE_TESTING_MEMORY_USE_H_

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// GCC has this function, but not the header that declares it, sanitizer/allocator_interface.h.
extern "C" size_t __sanitizer_get_heap_size();  // NOLINT(bugprone-reserved-identifier)
#else
#include <fstream>
#include <string>
#endif

namespace bulkhead {

// The bytes of memory that this process has for itself alone, freed ones that its allocator has
// not given back included. Under AddressSanitizer and ThreadSanitizer their allocator's part of
// that: their shadow, which is several times as much, is not the program's.
inline size_t PrivateBytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return __sanitizer_get_heap_size();
#else
  std::ifstream rollup("/proc/self/smaps_rollup");
  std::string word;
  size_t kib = 0;
  while (rollup >> word && word != "Pss_Anon:") {
  }
  rollup >> kib;
  return kib << 10;
#endif
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_MEMORY_USE_H_
