#ifndef BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_
#define BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

// Finds the VMs that run, and the one that is meant. A VM runs if a process listens on its control
// socket: the socket of a vmm that was killed refuses connections.
namespace bulkhead::vmctl {

struct VmAddress {
  std::string name;  // as for --vm; for --socket, the name of the file
  std::string socket_path;
};

// Connects to a trusted process: passwords are typed into consoles. Trusted users are this user,
// root, and, for root, the user whose folder holds the socket. Never waits; the socket is
// non-blocking. Errors, each with a text for the operator: NotFound (no such socket, or no process
// listens), PermissionDenied, ResourceExhausted (the listener accepts no connection),
// InvalidArgument (not a path for a socket).
absl::StatusOr<UniqueFd> ConnectSocket(const std::string& path);

// The VMs in the places where this user's VMs may be (RuntimeDirectories()).
struct RunningVms {
  std::vector<std::string> directories;  // that were searched
  std::vector<VmAddress> vms;            // by directory, then by name
  std::vector<std::string> warnings;     // lines for the operator: what was skipped, and why
};

// Finds the VMs whose sockets are in `directories`. Skips a directory that does not exist, and
// warns of one that cannot be read or where another user could have planted sockets.
RunningVms FindRunningVms(const std::vector<std::string>& directories);

// The VM named `name`; "": the only one that runs. Errors: NotFound (it does not run, or none
// does), FailedPrecondition (several run, or several have that name).
absl::StatusOr<VmAddress> ChooseVm(const RunningVms& running, const std::string& name);

// "no VM is running: no process listens on a control socket in ...".
std::string NoVmRuns(const RunningVms& running);

// The VM behind that socket, wherever it is.
VmAddress VmBehindSocket(const std::string& path);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_
