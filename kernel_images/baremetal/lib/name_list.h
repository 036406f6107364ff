#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NAME_LIST_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NAME_LIST_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"

namespace bulkhead::guest {

// Takes one of `table` by its name from the front of `list`.
template <typename Entry, uint32_t kCount>
const Entry& TakeName(const char*& list, const Entry (&table)[kCount]) {
  for (const Entry& entry : table) {
    const uint64_t length = strlen(entry.name);
    if (strlen(list) < length || memcmp(list, entry.name, length) != 0) continue;
    if (list[length] != ',' && list[length] != '\0') continue;
    list += length + (list[length] == ',');
    return entry;
  }
  Fail("unknown name: ", list);
}

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NAME_LIST_H_
