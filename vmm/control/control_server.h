#ifndef BULKHEAD_VMM_CONTROL_CONTROL_SERVER_H_
#define BULKHEAD_VMM_CONTROL_CONTROL_SERVER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/control/listening_socket.h"
#include "vmm/control/refused_clients.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// Limits on the clients' resources, so that a stuck client cannot take what the VM needs.
struct ControlLimits {
  size_t connections = 96;  // two descriptors each
  size_t streams = 64;      // WatchEvents, Trace and AttachConsole together
  size_t long_calls = 64;   // calls that wait for the VM: Pause, RestartDevice, ...
  // A client that sends nothing for this time must answer a ping within the same time, else it is
  // disconnected: it hangs, or does not speak HTTP/2.
  absl::Duration keepalive = absl::Seconds(30);
  // How long the destructor waits for clients to read the rest of their streams.
  absl::Duration drain_timeout = absl::Milliseconds(500);
};

// Serves VmControl (proto/vm_control.proto), server reflection and the standard health service on
// a unix socket. Closes connections of clients that may not use it (client_check.h), logs them, and
// counts them in the VM's metrics. Thread-safe.
//
// No call occupies a thread, however long it lasts. The server's own thread accepts connections and
// wakes streams that have something to send; gRPC's threads do the rest.
class ControlServer {
 public:
  // `vm`, its events() and its consoles, and `refused` must outlive the server. Clients that
  // connected to `socket` before are served now. Errors: as eventfd(2), Internal (gRPC did not
  // start).
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(VmOperations& vm,
                                                              ListeningSocket socket,
                                                              RefusedClients& refused,
                                                              const ControlLimits& limits = {});
  // The same for a socket on which the VM can only be watched (read_only_vm.h), by every client
  // that the file's mode lets in. `control_socket`: where it can be controlled; empty: nowhere.
  static absl::StatusOr<std::unique_ptr<ControlServer>> StartMonitor(
      VmOperations& vm, ListeningSocket socket, absl::string_view control_socket,
      RefusedClients& refused, const ControlLimits& limits = {});
  // Removes the socket, sends the remaining events and output, and ends open calls with
  // UNAVAILABLE and the reason of the VM's end. Blocks for about limits.drain_timeout at most.
  ~ControlServer();

 private:
  class Impl;  // hides gRPC's headers, which compile slowly

  explicit ControlServer(std::unique_ptr<Impl> impl);
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CONTROL_SERVER_H_
