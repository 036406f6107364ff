#ifndef BULKHEAD_VMM_CONFIG_MEMORY_BACKING_H_
#define BULKHEAD_VMM_CONFIG_MEMORY_BACKING_H_

#include <stdint.h>

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

// Checks the field memory_backing. `shmem_enabled`: what the host's file of this name has (always,
// advise, never ...); empty: it has no transparent huge pages. `error` makes an error of a field's
// name and the problem.
absl::StatusOr<RamBacking> ReadMemoryBacking(
    const v1::MemoryBacking& config, uint64_t memory_bytes, absl::string_view shmem_enabled,
    absl::FunctionRef<absl::Status(const std::string&, absl::string_view)> error);

// Of this host.
std::string ShmemEnabled();

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_MEMORY_BACKING_H_
