#ifndef BULKHEAD_INTEGRATION_DEBIAN_GUEST_DEBIAN_VM_H_
#define BULKHEAD_INTEGRATION_DEBIAN_GUEST_DEBIAN_VM_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "integration/harness/guest_shell.h"

namespace bulkhead::integration {

// The time limit for steps that take a minute on an idle machine: KVM may be emulated, and other
// tests may use the processor.
inline constexpr absl::Duration kSlowly = absl::Minutes(20);

// Boots the stock Debian system of //kernel_images:debian_root, with its own kernel and initramfs,
// from `disk`, a fresh copy of its image; up to a quiet shell. Errors: as GuestShell.
absl::StatusOr<std::unique_ptr<GuestShell>> BootDebian(const std::string& disk,
                                                       const std::vector<std::string>& flags);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_DEBIAN_GUEST_DEBIAN_VM_H_
