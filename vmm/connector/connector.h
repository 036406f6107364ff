#ifndef BULKHEAD_VMM_CONNECTOR_CONNECTOR_H_
#define BULKHEAD_VMM_CONNECTOR_CONNECTOR_H_

#include <stddef.h>

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
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// Connects devices to unix sockets of the host: neither a device's process nor the locked-down vmm
// may. That does a side process, the connector, which knows the paths from its start and does
// nothing else (proto/back_end_socket.h). If it dies, the next one serves the same devices.
//
// Thread-compatible: one thread a place.
class Connector {
 public:
  // Adds the process to `processes`. `confined`: with a system call filter. Errors: InvalidArgument
  // (too many places), or as socketpair(2).
  static absl::StatusOr<std::unique_ptr<Connector>> Create(std::vector<SocketPlace> places,
                                                           bool confined,
                                                           std::vector<SideProcess>& processes);

  // A new socket, over which a device's next process asks for connections to that place; the one
  // before is forgotten. Valid until the next call. -1: the keeper is gone, or as socketpair(2).
  int SocketForProcess(size_t place);

 private:
  Connector(UniqueFd control, size_t places) : control_(std::move(control)), offered_(places) {}

  const UniqueFd control_;
  std::vector<UniqueFd> offered_;  // by place
};

// Adds a connector to `processes` for the resources of `devices` that are sockets, if there are
// any, and sets their `connect`. Errors: as Connector::Create().
absl::Status ConnectSockets(std::vector<DeviceSpec>& devices, bool confined,
                            std::vector<SideProcess>& processes);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONNECTOR_CONNECTOR_H_
