#include "tools/vmctl/open_vm.h"

#include <utility>

#include "base/status_macros.h"
#include "proto/control_socket.h"

namespace bulkhead::vmctl {
namespace {

absl::StatusOr<std::unique_ptr<VmClient>> Open(const Invocation& invocation) {
  VmAddress address;
  if (invocation.socket.empty()) {
    ASSIGN_OR_RETURN(address, ChooseVm(FindRunningVms(RuntimeDirectories()), invocation.vm));
  } else {
    address = VmBehindSocket(invocation.socket);
  }
  return VmClient::Connect(address, invocation.timeout);
}

}  // namespace

std::unique_ptr<VmClient> OpenVm(const Invocation& invocation, ExitCode& code) {
  absl::StatusOr<std::unique_ptr<VmClient>> client = Open(invocation);
  if (client.ok()) return *std::move(client);
  // Several run, or the path cannot be one: that is the command line's fault.
  const bool usage =
      absl::IsFailedPrecondition(client.status()) || absl::IsInvalidArgument(client.status());
  code = Fail(usage ? kUsage : kNoVm, client.status().message());
  return nullptr;
}

}  // namespace bulkhead::vmctl
