#ifndef BULKHEAD_VMM_CONNECTOR_CONNECTOR_H_
#define BULKHEAD_VMM_CONNECTOR_CONNECTOR_H_

#include <stddef.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "vmm/config/vm_spec.h"
#include "vmm/connector/connector_process.h"

namespace bulkhead::vmm {

// Connects devices to unix sockets of the host: neither a device's process nor the locked-down vmm
// may. That does another process, the connector, which knows the paths from its start and does
// nothing else (proto/back_end_socket.h). It ends with this process.
//
// Thread-compatible: one thread a place.
class Connector {
 public:
  // Call it before the vmm gives up its rights: the connector keeps them. `confined`: with a system
  // call filter. Errors: as fork(2), socketpair(2).
  static absl::StatusOr<std::unique_ptr<Connector>> Start(std::vector<SocketPlace> places,
                                                          bool confined);
  ~Connector();

  // A new socket, over which a device's next process asks for connections to that place; the one
  // before is forgotten. Valid until the next call. -1: the connector is gone, or as socketpair(2).
  int SocketForProcess(size_t place);

 private:
  Connector(UniqueFd control, pid_t process, size_t places)
      : control_(std::move(control)), process_(process), offered_(places) {}

  const UniqueFd control_;
  const pid_t process_;
  std::vector<UniqueFd> offered_;  // by place
};

// Starts a connector for the resources of `devices` that are sockets, if there are any, and sets
// their `connect`. Errors: as Connector::Start().
absl::Status ConnectSockets(std::vector<DeviceSpec>& devices, bool confined);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONNECTOR_CONNECTOR_H_
