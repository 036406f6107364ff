#ifndef BULKHEAD_VMM_CONTROL_NAMED_SOCKET_H_
#define BULKHEAD_VMM_CONTROL_NAMED_SOCKET_H_

#include <string>

#include "absl/status/statusor.h"
#include "vmm/control/listening_socket.h"

namespace bulkhead::vmm {

// A control socket in the default directory, and the VM's name in its path. No two VMs whose
// sockets are in one user's directory have the same name.
struct NamedSocket {
  std::string vm_name;
  ListeningSocket socket;
};

// Opens NAME.sock in `directory` (proto/control_socket.h). Creates the directory, private to the
// user, if it does not exist. If a running VM has that name, fails if the user gave the name
// (`name_given`), else uses the first of NAME-2, NAME-3, ... that is free. Waits a moment for other
// vmms that choose a name. Errors: InvalidArgument (the name is in use, or too long),
// FailedPrecondition (other users may write to the directory), as mkdir(2), bind(2). Each is one
// message for the operator.
absl::StatusOr<NamedSocket> OpenNamedSocket(const std::string& directory, const std::string& name,
                                            bool name_given);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_NAMED_SOCKET_H_
