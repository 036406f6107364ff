#ifndef BULKHEAD_VMM_BOOT_LOADER_GRUB_CONDITION_H_
#define BULKHEAD_VMM_BOOT_LOADER_GRUB_CONDITION_H_

#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

namespace bulkhead::boot_loader {

// The size of a file by its path as a script has it; none: there is no such file.
using GrubFileSize = absl::FunctionRef<std::optional<uint64_t>(const std::string& path)>;

// The result of GRUB's command "test" (or "[", without its "]") with these arguments. False also
// for what is no expression.
bool EvaluateGrubTest(const std::vector<std::string>& arguments, GrubFileSize file_size);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_GRUB_CONDITION_H_
