#ifndef BULKHEAD_TOOLS_VMCTL_VM_CLIENT_IMPL_H_
#define BULKHEAD_TOOLS_VMCTL_VM_CLIENT_IMPL_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"
#include "proto/vm_control.grpc.pb.h"
#include "tools/vmctl/vm_client.h"

namespace bulkhead::vmctl {

// The part of VmClient that uses gRPC, shared with its streams. Thread-safe.
class VmClient::Impl {
 public:
  Impl(VmAddress address, absl::Duration timeout, UniqueFd socket);

  const VmAddress& address() const { return address_; }
  absl::Duration timeout() const { return timeout_; }
  v1::VmControl::Stub& stub() { return *stub_; }
  // Errors: FailedPrecondition: not in this pid namespace.
  const absl::StatusOr<PidFd>& vmm_process() const { return vmm_process_; }

  static void Limit(grpc::ClientContext& context, absl::Duration timeout);

  // The error for the operator.
  absl::Status ToStatus(const grpc::Status& status) const;

  template <typename Request, typename Reply>
  absl::Status Call(grpc::Status (v1::VmControl::Stub::*method)(grpc::ClientContext*,
                                                                const Request&, Reply*),
                    const Request& request, Reply& reply) {
    grpc::ClientContext context;
    Limit(context, timeout_);
    return ToStatus((stub_.get()->*method)(&context, request, &reply));
  }

 private:
  // Whether the vmm has ended. Waits a moment for a vmm that is ending: its sockets close one after
  // the other, and its process ends last.
  bool HasEnded() const;

  const VmAddress address_;
  const absl::Duration timeout_;
  const absl::StatusOr<PidFd> vmm_process_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::VmControl::Stub> stub_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_VM_CLIENT_IMPL_H_
