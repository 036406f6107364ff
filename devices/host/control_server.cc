#include "devices/host/control_server.h"

#include <errno.h>
#include <fcntl.h>

#include <atomic>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_posix.h"
#include "proto/device_control.grpc.pb.h"
#include "proto/grpc_deadline.h"

namespace bulkhead::devices {
namespace {

// A heartbeat, a command and a look at the metrics may wait at one time, and one thread polls.
// What finds no thread is refused. Threads are started when they are needed, but a second one stays
// once it was: with one, each call starts a thread, and where the host lets it start none a device
// that serves answers no call.
constexpr int kMaxThreads = 8;
constexpr int kMaxIdleThreads = 2;
// The vmm's requests are tiny.
constexpr int kMaxRequestBytes = 64 * 1024;
// For the answer to Shutdown to leave. gRPC does not tell when it has.
constexpr absl::Duration kLastAnswerTime = absl::Milliseconds(10);

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

absl::Duration TimeLeft(const grpc::ServerContext& context) {
  // Not deadline(), which goes by the wall clock.
  const gpr_timespec left =
      gpr_time_sub(gpr_convert_clock_type(context.raw_deadline(), GPR_CLOCK_MONOTONIC),
                   gpr_now(GPR_CLOCK_MONOTONIC));
  return absl::Seconds(left.tv_sec) + absl::Nanoseconds(left.tv_nsec);
}

class DeviceControlService final : public v1::DeviceControl::Service {
 public:
  DeviceControlService(const v1::DeviceInfo& info, ControlMailbox& mailbox)
      : info_(info), mailbox_(mailbox) {}

  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest*,
                        v1::DeviceInfo* info) override {
    *info = info_;
    return grpc::Status::OK;
  }

  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest*,
                         v1::HeartbeatReply*) override {
    return ToGrpc(
        mailbox_.AwaitHeartbeat(TimeLeft(*context), [&] { return context->IsCancelled(); }));
  }
  grpc::Status Reset(grpc::ServerContext* context, const v1::ResetRequest*,
                     v1::ResetReply*) override {
    return Call(*context, ControlMailbox::CommandType::kReset);
  }
  grpc::Status Quiesce(grpc::ServerContext* context, const v1::QuiesceRequest*,
                       v1::QuiesceReply*) override {
    return Call(*context, ControlMailbox::CommandType::kQuiesce);
  }
  grpc::Status Resume(grpc::ServerContext* context, const v1::ResumeDeviceRequest*,
                      v1::ResumeDeviceReply*) override {
    return Call(*context, ControlMailbox::CommandType::kResume);
  }
  grpc::Status GetMetrics(grpc::ServerContext* context, const v1::GetDeviceMetricsRequest*,
                          v1::DeviceMetrics* metrics) override {
    return Call(*context, ControlMailbox::CommandType::kGetMetrics, metrics);
  }
  grpc::Status Shutdown(grpc::ServerContext* context, const v1::ShutdownDeviceRequest*,
                        v1::ShutdownDeviceReply*) override {
    shutdown_called_ = true;
    return Call(*context, ControlMailbox::CommandType::kShutdown);
  }

  bool shutdown_called() const { return shutdown_called_; }

 private:
  grpc::Status Call(grpc::ServerContext& context, ControlMailbox::CommandType type,
                    v1::DeviceMetrics* metrics = nullptr) {
    return ToGrpc(
        mailbox_.Call(type, TimeLeft(context), [&] { return context.IsCancelled(); }, metrics));
  }

  const v1::DeviceInfo info_;
  ControlMailbox& mailbox_;
  std::atomic<bool> shutdown_called_{false};
};

}  // namespace

class ControlServer::Impl {
 public:
  Impl(const v1::DeviceInfo& info, ControlMailbox& mailbox)
      : mailbox_(mailbox), service_(info, mailbox) {}

  absl::Status Start(UniqueFd socket) {
    grpc::ResourceQuota quota("device");
    quota.SetMaxThreads(kMaxThreads);
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, kMaxIdleThreads);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC did not start");
    grpc::AddInsecureChannelFromFd(server_.get(), socket.release());
    return absl::OkStatus();
  }

  ~Impl() {
    mailbox_.Close();
    if (server_ == nullptr) return;
    const absl::Duration limit =
        service_.shutdown_called() ? kLastAnswerTime : absl::ZeroDuration();
    server_->Shutdown(GrpcDeadline(limit));
  }

 private:
  ControlMailbox& mailbox_;
  DeviceControlService service_;
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(UniqueFd socket,
                                                                    const v1::DeviceInfo& info,
                                                                    ControlMailbox& mailbox) {
  // gRPC's own threads wait for the socket; none of them may block in it. The vmm's is as it has to
  // be, and a sandbox forbids F_SETFL.
  const int flags = fcntl(socket.get(), F_GETFL);
  if ((flags < 0 || (flags & O_NONBLOCK) == 0) && fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "O_NONBLOCK on the control socket");
  }
  auto impl = std::make_unique<Impl>(info, mailbox);
  if (absl::Status status = impl->Start(std::move(socket)); !status.ok()) return status;
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() = default;

}  // namespace bulkhead::devices
