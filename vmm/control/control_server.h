#ifndef BULKHEAD_VMM_CONTROL_CONTROL_SERVER_H_
#define BULKHEAD_VMM_CONTROL_CONTROL_SERVER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/control/listening_socket.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// What clients may hold. Who may connect at all, the file's mode decides; these keep a client that
// is stuck from taking what the VM needs.
struct ControlLimits {
  size_t connections = 96;  // two descriptors each
  size_t streams = 64;      // WatchEvents and AttachConsole together
  size_t long_calls = 64;   // calls that wait for the VM: Pause, RestartDevice, ...
  // A client that sends nothing for so long must answer a ping within the same time, or is
  // disconnected: it hangs, or does not speak HTTP/2.
  absl::Duration silence = absl::Seconds(30);
  // How long the destructor lets streams take in what they have not read yet.
  absl::Duration farewell = absl::Milliseconds(500);
};

// Serves VmControl (proto/vm_control.proto), server reflection and the standard health service on
// a unix socket, for the user who runs the vmm alone (mode 0600). Thread-safe.
//
// No call holds a thread, however long it goes on. Its own thread accepts connections and tells
// streams that there is something to send; gRPC's threads do the rest.
class ControlServer {
 public:
  // `vm`, its events() and its consoles outlive the server. Who has connected to `socket` before
  // is served now. Errors: as eventfd(2), Internal (gRPC did not start).
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(VmOperations& vm,
                                                              ListeningSocket socket,
                                                              const ControlLimits& limits = {});
  // Removes the socket, sends what events and output there are, and ends what still goes on with
  // UNAVAILABLE and the reason why the VM ends. Blocks for limits.farewell and a little.
  ~ControlServer();

 private:
  class Impl;  // keeps gRPC's headers out of here: they compile slowly

  explicit ControlServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CONTROL_SERVER_H_
