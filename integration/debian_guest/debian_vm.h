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

// How long a guest may take for what takes an idle machine a minute, where KVM is emulated and
// other tests want the processor.
inline constexpr absl::Duration kSlowly = absl::Minutes(20);

// Boots the stock Debian system of //kernel_images:debian_root, with its own kernel and initramfs,
// from `disk`, a fresh copy of its image; up to a quiet shell. Errors: as GuestShell.
absl::StatusOr<std::unique_ptr<GuestShell>> BootDebian(const std::string& disk,
                                                       const std::vector<std::string>& flags);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_DEBIAN_GUEST_DEBIAN_VM_H_
