#include "devices/host/control_server.h"

#include <errno.h>
#include <fcntl.h>

#include <chrono>

#include "absl/status/status.h"
#include "base/errno_status.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_posix.h"
#include "proto/device_control.grpc.pb.h"

namespace bulkhead::devices {
namespace {

// One call at a time comes from the vmm; a second thread keeps a slow one from blocking others.
constexpr int kMaxThreads = 2;
// The vmm's requests are tiny.
constexpr int kMaxRequestBytes = 64 * 1024;

class DeviceControlService final : public v1::DeviceControl::Service {
 public:
  explicit DeviceControlService(const v1::PciInfo& info) : info_(info) {}

  grpc::Status GetPciInfo(grpc::ServerContext*, const v1::GetPciInfoRequest*,
                          v1::PciInfo* info) override {
    *info = info_;
    return grpc::Status::OK;
  }

 private:
  const v1::PciInfo info_;
};

}  // namespace

class ControlServer::Impl {
 public:
  explicit Impl(const v1::PciInfo& info) : service_(info) {}

  absl::Status Start(UniqueFd socket) {
    grpc::ResourceQuota quota("device");
    quota.SetMaxThreads(kMaxThreads);
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC did not start");
    grpc::AddInsecureChannelFromFd(server_.get(), socket.release());
    return absl::OkStatus();
  }

  ~Impl() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

 private:
  DeviceControlService service_;
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(UniqueFd socket,
                                                                    const v1::PciInfo& info) {
  // gRPC's own threads wait for the socket; none of them may block in it.
  if (fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "O_NONBLOCK on the control socket");
  }
  auto impl = std::make_unique<Impl>(info);
  if (absl::Status status = impl->Start(std::move(socket)); !status.ok()) return status;
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() = default;

}  // namespace bulkhead::devices
