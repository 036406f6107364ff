#ifndef BULKHEAD_VMM_CONTROL_NAMED_SOCKET_H_
#define BULKHEAD_VMM_CONTROL_NAMED_SOCKET_H_

#include <string>

#include "absl/status/statusor.h"
#include "vmm/control/listening_socket.h"

namespace bulkhead::vmm {

// A control socket at the default place, and the name that goes with it: of the VMs of one user
// whose sockets are there, no two have the same name.
struct NamedSocket {
  std::string vm_name;
  ListeningSocket socket;
};

// Opens NAME.sock in `directory` (proto/control_socket.h), which is made if it is not there, for
// its user alone. If a running VM has that name: an error if it was given by the user, else the
// first of NAME-2, NAME-3, ... that is free. Waits a moment for others who choose.
// Errors: InvalidArgument (the name is taken, or too long), FailedPrecondition (the directory may
// be somebody else's), as mkdir(2), bind(2). One message for the operator.
absl::StatusOr<NamedSocket> OpenNamedSocket(const std::string& directory, const std::string& name,
                                            bool name_given);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_NAMED_SOCKET_H_
