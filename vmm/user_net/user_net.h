#ifndef BULKHEAD_VMM_USER_NET_USER_NET_H_
#define BULKHEAD_VMM_USER_NET_USER_NET_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// A network for a device without any rights: the program passt, which has ordinary sockets for the
// guest's connections. Two further processes belong to it. The keeper starts passt, again and again
// if it ends, which the locked-down vmm could not. The relay (relay.h) stands between passt and the
// device, so that neither hears of a restart of the other. All end with this object, or with the
// vmm.
//
// Thread-compatible.
class UserNet {
 public:
  // Call it before the vmm gives up its rights: the keeper keeps them. `confined`: the relay has a
  // system call filter. Errors: as fork(2), socketpair(2).
  static absl::StatusOr<std::unique_ptr<UserNet>> Start(const UserNetSpec& spec, bool confined);
  // Waits for two seconds at most.
  ~UserNet();

  // A new socket for a device's next process, as Relay::SetDevice() has it; the one before gets
  // nothing any more. Valid until the next call. -1: the relay is gone, or as socketpair(2).
  int SocketForProcess();

 private:
  UserNet(UniqueFd control, pid_t keeper, UniqueFd keeper_pidfd)
      : control_(std::move(control)), keeper_(keeper), keeper_pidfd_(std::move(keeper_pidfd)) {}

  const UniqueFd control_;
  const pid_t keeper_;
  const UniqueFd keeper_pidfd_;
  UniqueFd offered_;
};

// Starts one for each resource of `devices` that wants it, and sets its `connect`. Errors: as
// Start().
absl::Status StartUserNets(std::vector<DeviceSpec>& devices, bool confined);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_USER_NET_USER_NET_H_
