#include "vmm/remote_device/control_client.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>

#include "base/errno_status.h"
#include "grpc/support/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/device_control.grpc.pb.h"
#include "vmm/remote_device/printable.h"

namespace bulkhead::vmm {
namespace {

// A hostile device must not make the vmm buffer more.
constexpr int kMaxAnswerBytes = 256 * 1024;

absl::Status ToStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::DeadlineExceededError("no answer came in time");
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      Printable(status.error_message()));
}

}  // namespace

class ControlCall::Context {
 public:
  grpc::ClientContext context;
};

ControlCall::ControlCall(absl::Duration timeout) : context_(std::make_unique<Context>()) {
  // Not by the wall clock, which may be set.
  const int64_t nanoseconds = std::max(absl::ToInt64Nanoseconds(timeout), int64_t{0});
  context_->context.set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(nanoseconds, GPR_TIMESPAN)));
}

ControlCall::~ControlCall() = default;

void ControlCall::Cancel() {
  cancelled_.store(true, std::memory_order_relaxed);
  context_->context.TryCancel();  // before the call it is remembered, after it without effect
}

class ControlClient::Impl {
 public:
  explicit Impl(UniqueFd socket) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
    channel_ = grpc::CreateCustomInsecureChannelFromFd("device", socket.release(), arguments);
    stub_ = v1::DeviceControl::NewStub(channel_);
  }

  template <typename Request, typename Reply>
  absl::StatusOr<Reply> Call(grpc::Status (v1::DeviceControl::Stub::*method)(grpc::ClientContext*,
                                                                             const Request&,
                                                                             Reply*),
                             grpc::ClientContext& context) {
    Reply reply;
    const grpc::Status status = (stub_.get()->*method)(&context, Request(), &reply);
    if (!status.ok()) return ToStatus(status);
    return reply;
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DeviceControl::Stub> stub_;
};

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Create(UniqueFd socket) {
  // gRPC waits for the socket itself; none of its calls may block in it.
  if (fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "O_NONBLOCK on the control socket");
  }
  return std::unique_ptr<ControlClient>(
      new ControlClient(std::make_unique<Impl>(std::move(socket))));
}

ControlClient::ControlClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlClient::~ControlClient() = default;

absl::StatusOr<v1::PciInfo> ControlClient::GetPciInfo(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::GetPciInfo, call.context_->context);
}

absl::StatusOr<v1::HeartbeatReply> ControlClient::Heartbeat(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Heartbeat, call.context_->context);
}

absl::Status ControlClient::Reset(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Reset, call.context_->context).status();
}

absl::Status ControlClient::Quiesce(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Quiesce, call.context_->context).status();
}

absl::Status ControlClient::Resume(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Resume, call.context_->context).status();
}

absl::StatusOr<v1::DeviceMetrics> ControlClient::GetMetrics(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::GetMetrics, call.context_->context);
}

absl::Status ControlClient::Shutdown(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Shutdown, call.context_->context).status();
}

}  // namespace bulkhead::vmm
