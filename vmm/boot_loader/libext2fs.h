#ifndef BULKHEAD_VMM_BOOT_LOADER_LIBEXT2FS_H_
#define BULKHEAD_VMM_BOOT_LOADER_LIBEXT2FS_H_

// The library's headers, whose inline functions do not pass our warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wold-style-cast"
#include <ext2fs/ext2fs.h>
#pragma GCC diagnostic pop

#endif  // BULKHEAD_VMM_BOOT_LOADER_LIBEXT2FS_H_
