#include "base/release_startup_pages.h"

#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

namespace bulkhead {
namespace {

int ReleaseObject(dl_phdr_info* info, size_t, void*) {
  const uintptr_t page_mask = ~(static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)) - 1);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    // A writable segment has private pages: they would be lost. The others are as in the file.
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    // A page that the segment shares with its neighbour belongs to the neighbour's mapping.
    const uintptr_t start = (info->dlpi_addr + segment.p_vaddr) & page_mask;
    const uintptr_t end = (info->dlpi_addr + segment.p_vaddr + segment.p_memsz) & page_mask;
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }
  return 0;
}

}  // namespace

void ReleaseStartupPages() {
  malloc_trim(0);
  dl_iterate_phdr(ReleaseObject, nullptr);
}

}  // namespace bulkhead
