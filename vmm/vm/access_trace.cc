#include "vmm/vm/access_trace.h"

#include <sys/mman.h>

#include <utility>

#include "absl/memory/memory.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<AccessTrace>> AccessTrace::Create(uint32_t vcpus) {
  const size_t bytes = size_t{vcpus} * sizeof(channel::TraceRing);
  ASSIGN_OR_RETURN(const UniqueFd file, CreateMemfd("bulkhead-trace", bytes));
  ASSIGN_OR_RETURN(MemoryMapping memory,
                   MemoryMapping::Map(file.get(), 0, bytes, MemoryMapping::Protection::kReadWrite));
  return absl::WrapUnique(new AccessTrace(std::move(memory), vcpus));
}

const AccessTrace& AccessTrace::Never() {
  static const AccessTrace& never = *new AccessTrace(MemoryMapping(), 0);
  return never;
}

void AccessTrace::Drop() {
  // Without success the memory stays, and the next trace begins behind what is in it.
  (void)madvise(memory_.data(), memory_.size(), MADV_REMOVE);
}

}  // namespace bulkhead::vmm
