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

// A connection, non-blocking, to a process whose user may be trusted with it: a console takes
// passwords. That is this user, root, or, for root, the user whose folder the socket is in. Never
// waits. Errors, each a text for the operator: NotFound (no such socket, or no process listens any
// more), PermissionDenied, ResourceExhausted (a listener that accepts no connection),
// InvalidArgument (no path for a socket).
absl::StatusOr<UniqueFd> ConnectSocket(const std::string& path);

// What is found in the places where a user's VMs may be (RuntimeDirectories()).
struct RunningVms {
  std::vector<std::string> directories;  // that were looked in
  std::vector<VmAddress> vms;            // by directory, then by name
  std::vector<std::string> warnings;     // what was left out, and why: lines for the operator
};

// The VMs that run with their sockets in `directories`. One that is not there has none; one that
// cannot be read, or where another user could have put sockets to be mistaken for VMs, is left out.
RunningVms FindRunningVms(const std::vector<std::string>& directories);

// The VM named `name`; with "" the only one that runs. Errors: NotFound: it does not run, or none
// does; FailedPrecondition: several run, or several with that name.
absl::StatusOr<VmAddress> ChooseVm(const RunningVms& running, const std::string& name);

// "no VM is running: no process listens on a control socket in ...".
std::string NoVmRuns(const RunningVms& running);

// The VM behind that socket, wherever it is.
VmAddress VmBehindSocket(const std::string& path);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_DISCOVERY_H_
