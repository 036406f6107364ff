#ifndef BULKHEAD_VMM_SANDBOX_POLICY_NOTE_H_
#define BULKHEAD_VMM_SANDBOX_POLICY_NOTE_H_

#include <string>

#include "absl/status/statusor.h"

namespace bulkhead::vmm {

// The policy text in the program file `binary` (bazel/product_binary.bzl embeds it): the ELF note
// with the name "Bulkhead" and type 1. Empty where there is none, also in what is no ELF file (a
// script). The file may be anything: each read has bounds, and so has the number of them.
// Errors: InvalidArgument (more than one such note, or one that is too long), as pread(2).
absl::StatusOr<std::string> ReadPolicyNote(int binary);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_POLICY_NOTE_H_
