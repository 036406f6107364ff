#include "tools/vmctl/vm_client.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "grpc/support/log.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/support/async_unary_call.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/grpc_deadline.h"
#include "tools/vmctl/console_stream.h"
#include "tools/vmctl/vm_client_impl.h"

namespace bulkhead::vmctl {
namespace {

// The text of a deadline that passed in this process. A text of the VM says more.
constexpr char kOwnDeadlineText[] = "Deadline Exceeded";

constexpr int kEndMs = 2000;

// Lives until its answer.
struct MetricsCall {
  grpc::ClientContext context;
  v1::VmMetrics reply;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::VmMetrics>> reader;
  std::function<void(absl::StatusOr<v1::VmMetrics>)> done;
};

// The process that listens on the other side of the socket.
absl::StatusOr<PidFd> PeerProcess(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
    return absl::FailedPreconditionError("the vmm's process is not visible from here");
  }
  return PidFd::Open(peer.pid);
}

// gRPC's own log is for gRPC's developers.
void SilenceGrpc() {
  if (getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace

VmClient::Impl::Impl(VmAddress address, absl::Duration timeout, UniqueFd socket)
    : address_(std::move(address)), timeout_(timeout), vmm_process_(PeerProcess(socket.get())) {
  SilenceGrpc();
  // Over this very connection, and no other later: the VM is the one that was chosen.
  channel_ =
      grpc::CreateCustomInsecureChannelFromFd("vmm", socket.release(), grpc::ChannelArguments());
  stub_ = v1::VmControl::NewStub(channel_);
}

bool VmClient::Impl::HasEnded() const {
  if (!vmm_process_.ok()) return absl::IsNotFound(ConnectSocket(address_.socket_path).status());
  pollfd polled = {.fd = vmm_process_->fd(), .events = POLLIN, .revents = 0};
  return poll(&polled, 1, kEndMs) > 0;
}

absl::Status VmClient::Impl::ToStatus(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const std::string vm = absl::StrCat("VM \"", address_.name, "\"");
  const std::string& text = status.error_message();
  switch (status.error_code()) {
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      if (text != kOwnDeadlineText)
        return absl::DeadlineExceededError(absl::StrCat(vm, ": ", text));
      return absl::DeadlineExceededError(
          absl::StrCat(vm, " did not answer within ", absl::FormatDuration(timeout_),
                       "; the command may still take effect. See `vmctl status`; ",
                       "--timeout sets how long to wait"));
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:  // by a vmm that ends
      if (HasEnded()) {
        return absl::UnavailableError(absl::StrCat(vm, " has ended"));
      }
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          absl::StrCat(vm, ": ", text));
    case grpc::StatusCode::UNIMPLEMENTED:
      if (!text.empty()) return absl::UnimplementedError(absl::StrCat(vm, ": ", text));
      return absl::UnimplementedError(
          absl::StrCat(vm, " does not know this command: its vmm (or what listens on ",
                       address_.socket_path, ") is of another version than this vmctl"));
    default:
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          absl::StrCat(vm, ": ", text));
  }
}

absl::StatusOr<std::unique_ptr<VmClient>> VmClient::Connect(const VmAddress& address,
                                                            absl::Duration timeout) {
  ASSIGN_OR_RETURN(UniqueFd socket, ConnectSocket(address.socket_path));
  return std::unique_ptr<VmClient>(
      new VmClient(std::make_unique<Impl>(address, timeout, std::move(socket))));
}

VmClient::VmClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
VmClient::~VmClient() = default;

const VmAddress& VmClient::address() const { return impl_->address(); }

absl::StatusOr<v1::VmStatus> VmClient::GetStatus() {
  v1::VmStatus reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::GetStatus, v1::GetStatusRequest(), reply));
  return reply;
}

absl::StatusOr<bool> VmClient::Shutdown() {
  v1::ShutdownReply reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::Shutdown, v1::ShutdownRequest(), reply));
  return !reply.kept();
}

absl::Status VmClient::Wake() {
  v1::WakeReply reply;
  return impl_->Call(&v1::VmControl::Stub::Wake, v1::WakeRequest(), reply);
}

absl::Status VmClient::Stop() {
  v1::StopReply reply;
  return impl_->Call(&v1::VmControl::Stub::Stop, v1::StopRequest(), reply);
}

absl::Status VmClient::Pause() {
  v1::PauseReply reply;
  return impl_->Call(&v1::VmControl::Stub::Pause, v1::PauseRequest(), reply);
}

absl::Status VmClient::Resume(bool report_errors) {
  v1::ResumeRequest request;
  request.set_report_errors(report_errors);
  v1::ResumeReply reply;
  return impl_->Call(&v1::VmControl::Stub::Resume, request, reply);
}

absl::StatusOr<v1::ListDevicesReply> VmClient::ListDevices() {
  v1::ListDevicesReply reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::ListDevices, v1::ListDevicesRequest(), reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::GetDevice(const std::string& name) {
  v1::GetDeviceRequest request;
  request.set_name(name);
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::GetDevice, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::RestartDevice(const v1::RestartDeviceRequest& request) {
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::RestartDevice, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::ResizeDisk(const v1::ResizeDiskRequest& request) {
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::ResizeDisk, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::LimitDevice(const v1::LimitDeviceRequest& request) {
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::LimitDevice, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::ResetDevice(const std::string& name) {
  v1::ResetDeviceRequest request;
  request.set_name(name);
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::ResetDevice, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::StopDevice(const std::string& name) {
  v1::StopDeviceRequest request;
  request.set_name(name);
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::StopDevice, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::StartDevice(const std::string& name) {
  v1::StartDeviceRequest request;
  request.set_name(name);
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::StartDevice, request, reply));
  return reply;
}

absl::StatusOr<v1::Device> VmClient::SetDeviceLink(const std::string& name, bool up) {
  v1::SetDeviceLinkRequest request;
  request.set_name(name);
  request.set_up(up);
  v1::Device reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::SetDeviceLink, request, reply));
  return reply;
}

absl::StatusOr<v1::Balloon> VmClient::GetBalloon() {
  v1::Balloon reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::GetBalloon, v1::GetBalloonRequest(), reply));
  return reply;
}

absl::StatusOr<v1::Balloon> VmClient::SetBalloon(uint64_t target_bytes) {
  v1::SetBalloonRequest request;
  request.set_target_bytes(target_bytes);
  v1::Balloon reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::SetBalloon, request, reply));
  return reply;
}

void VmClient::Impl::Limit(grpc::ClientContext& context, absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return;
  context.set_deadline(GrpcDeadline(timeout));
}

absl::StatusOr<v1::VmMetrics> VmClient::GetMetrics() {
  v1::VmMetrics reply;
  RETURN_IF_ERROR(impl_->Call(&v1::VmControl::Stub::GetMetrics, v1::GetMetricsRequest(), reply));
  return reply;
}

void VmClient::StartGetMetrics(grpc::CompletionQueue& answers,
                               std::function<void(absl::StatusOr<v1::VmMetrics>)> done) {
  auto call = std::make_unique<MetricsCall>();
  call->done = std::move(done);
  Impl::Limit(call->context, impl_->timeout());
  call->reader = impl_->stub().AsyncGetMetrics(&call->context, v1::GetMetricsRequest(), &answers);
  call->reader->Finish(&call->reply, &call->status, call.get());
  call.release();  // the queue's
}

void VmClient::ServeAnswers(grpc::CompletionQueue& answers) {
  void* tag = nullptr;
  bool unused = false;
  while (answers.Next(&tag, &unused)) {
    std::unique_ptr<MetricsCall> call(static_cast<MetricsCall*>(tag));
    const auto done = std::move(call->done);
    absl::StatusOr<v1::VmMetrics> metrics = std::move(call->reply);
    if (!call->status.ok()) {
      metrics = absl::Status(static_cast<absl::StatusCode>(call->status.error_code()),
                             call->status.error_message());
    }
    call.reset();
    done(std::move(metrics));
  }
}

absl::Status VmClient::WatchEvents(bool only_past, absl::Duration timeout,
                                   const std::function<bool(const v1::Event&)>& on_event) {
  grpc::ClientContext context;
  Impl::Limit(context, timeout);
  v1::WatchEventsRequest request;
  request.set_only_past(only_past);
  const auto reader = impl_->stub().WatchEvents(&context, request);
  v1::Event event;
  while (reader->Read(&event)) {
    if (on_event(event)) continue;
    context.TryCancel();
    while (reader->Read(&event)) {
    }
    (void)reader->Finish();
    return absl::OkStatus();
  }
  return impl_->ToStatus(reader->Finish());
}

absl::Status VmClient::Trace(absl::Duration duration,
                             const std::function<bool(const v1::TraceChunk&)>& on_chunk) {
  grpc::ClientContext context;
  Impl::Limit(context, duration + impl_->timeout());
  v1::TraceRequest request;
  request.set_seconds(static_cast<uint32_t>(absl::ToInt64Seconds(duration)));
  const auto reader = impl_->stub().Trace(&context, request);
  v1::TraceChunk chunk;
  while (reader->Read(&chunk)) {
    if (on_chunk(chunk)) continue;
    context.TryCancel();
    while (reader->Read(&chunk)) {
    }
    (void)reader->Finish();
    return absl::OkStatus();
  }
  return impl_->ToStatus(reader->Finish());
}

const absl::StatusOr<PidFd>& VmClient::vmm_process() const { return impl_->vmm_process(); }

}  // namespace bulkhead::vmctl
