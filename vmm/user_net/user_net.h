#ifndef BULKHEAD_VMM_USER_NET_USER_NET_H_
#define BULKHEAD_VMM_USER_NET_USER_NET_H_

#include <stdint.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "vmm/config/program_report.h"
#include "vmm/config/vm_spec.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// A network for a device without any rights: the program passt, which has ordinary sockets for the
// guest's connections. Two further processes belong to it. The keeper starts passt, again and again
// if it ends, which the locked-down vmm could not. The relay (relay.h) stands between passt and the
// device, so that neither hears of a restart of the other. If one of both dies, both and passt are
// replaced (vmm/side_process), and the device notices no more than lost frames. Over a death of the
// device's process none is lost that it had not taken.
//
// Thread-compatible.
class UserNet {
 public:
  // Adds the keeper to `processes`, which are to be started. `confined`: the relay has a system
  // call filter. Errors: as socketpair(2), mmap(2).
  static absl::StatusOr<std::unique_ptr<UserNet>> Create(const UserNetSpec& spec, bool confined,
                                                         std::vector<SideProcess>& processes);

  // A new socket for a device's next process, as Relay::SetDevice() has it; the one before gets
  // nothing any more, and what it had not taken waits in the new one. Call it when the process that
  // had that is dead. Valid until the next call.
  // -1: no process has the keeper started any more, or as socketpair(2).
  int SocketForProcess();

  // Of the program: whether it runs, how often it was started, and how many frames were lost.
  const std::shared_ptr<ProgramReport>& report() const { return report_; }

 private:
  explicit UserNet(std::shared_ptr<ProgramReport> report) : report_(std::move(report)) {}

  void PassOnLeftFrames(const UniqueFd& new_relay_end);

  const std::shared_ptr<ProgramReport> report_;  // with the keeper and the relay
  UniqueFd clients_;
  UniqueFd device_end_;
  UniqueFd relay_end_;  // for the next relay
};

// Errors: InvalidArgument: a port of the host that one of `devices` is to have forwarded is not
// free, or may not be used.
absl::Status CheckForwards(const std::vector<DeviceSpec>& devices);

// Makes one for each resource of `devices` that wants it, adds what is to be started to
// `processes`, and sets the resources' `connect` and the devices' `program`. Errors: as
// CheckForwards(), UserNet::Create().
absl::Status AddUserNets(std::vector<DeviceSpec>& devices, bool confined,
                         std::vector<SideProcess>& processes);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_USER_NET_USER_NET_H_
