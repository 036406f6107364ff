#ifndef BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_
#define BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

// Which VMs run, and which one is meant. A VM runs if somebody listens on its control socket: a
// vmm that was killed leaves a socket that refuses, and that is no running VM.
namespace bulkhead::vmctl {

struct VmAddress {
  std::string name;  // as --vm takes it; of a socket given by path, the file's name
  std::string socket_path;
};

// A connection, non-blocking. Never waits. Errors, each a text for the operator: NotFound (no such
// socket, or nobody listens any more), PermissionDenied, ResourceExhausted (a listener that
// accepts nobody), InvalidArgument (no path for a socket).
absl::StatusOr<UniqueFd> ConnectSocket(const std::string& path);

// The VMs that run with their sockets in `directory`, by name. A directory that is not there has
// none. Errors: PermissionDenied: it cannot be read, or another user could have put sockets there
// to be mistaken for VMs.
absl::StatusOr<std::vector<VmAddress>> FindRunningVms(const std::string& directory);

// The VM named `name` in `directory`; with "" the only one that runs. Errors: NotFound: it does
// not run, or none does; FailedPrecondition: several run; those of FindRunningVms().
absl::StatusOr<VmAddress> ChooseVm(const std::string& directory, const std::string& name);

// The VM behind that socket, wherever it is.
VmAddress VmBehindSocket(const std::string& path);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_
