#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_MEMORY_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_MEMORY_H_

#include <stddef.h>
#include <stdint.h>

// What the compiler expects of a C library, and no more.
extern "C" {
void* memcpy(void* to, const void* from, size_t size);
void* memmove(void* to, const void* from, size_t size);
void* memset(void* to, int byte, size_t size);
int memcmp(const void* a, const void* b, size_t size);
size_t strlen(const char* text);
}

namespace bulkhead::guest {

// As devices see it: memory is identity-mapped.
inline uint64_t AddressOf(const void* object) { return reinterpret_cast<uint64_t>(object); }

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_MEMORY_H_
