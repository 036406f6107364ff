#ifndef BULKHEAD_VMM_CONFIG_SHARE_FLAG_H_
#define BULKHEAD_VMM_CONFIG_SHARE_FLAG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/command_line.h"

namespace bulkhead::vmm {

// Where Debian has virtiofsd.
inline constexpr absl::string_view kRustVirtiofsd = "/usr/libexec/virtiofsd";   // from Debian 13 on
inline constexpr absl::string_view kQemuVirtiofsd = "/usr/lib/qemu/virtiofsd";  // Debian 12
inline constexpr absl::string_view kVirtiofsdPlaces[] = {kRustVirtiofsd, kQemuVirtiofsd};

// The first of `places` that is a program. Errors: NotFound, for people.
absl::StatusOr<std::string> FindVirtiofsd(absl::Span<const absl::string_view> places);

// How `program`, of those places, serves the folder `path`.
v1::BackEnd ServeFolder(const std::string& program, const std::string& path, bool read_only);

// Adds the device that the value of --share describes: vhost_user with virtiofsd as its back end.
// Errors: InvalidArgument, for people.
absl::Status ParseShare(absl::string_view text, CommandLine& line);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_SHARE_FLAG_H_
