#include "vmm/remote_device/control_client.h"

#include <errno.h>
#include <fcntl.h>

#include "absl/status/status.h"
#include "base/errno_status.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/device_control.grpc.pb.h"

namespace bulkhead::vmm {
namespace {

// A hostile device must not make the vmm buffer more.
constexpr int kMaxAnswerBytes = 256 * 1024;

absl::Status ToStatus(const grpc::Status& status) {
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::DeadlineExceededError("no answer came in time");
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace

class ControlClient::Impl {
 public:
  explicit Impl(UniqueFd socket) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
    channel_ = grpc::CreateCustomInsecureChannelFromFd("device", socket.release(), arguments);
    stub_ = v1::DeviceControl::NewStub(channel_);
  }

  absl::StatusOr<v1::PciInfo> GetPciInfo(absl::Duration timeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    v1::PciInfo info;
    const grpc::Status status = stub_->GetPciInfo(&context, v1::GetPciInfoRequest(), &info);
    if (!status.ok()) return ToStatus(status);
    return info;
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

absl::StatusOr<v1::PciInfo> ControlClient::GetPciInfo(absl::Duration timeout) {
  return impl_->GetPciInfo(timeout);
}

}  // namespace bulkhead::vmm
