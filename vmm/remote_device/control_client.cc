#include "vmm/remote_device/control_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <algorithm>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "grpc/compression.h"
#include "grpc/support/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/device_control.grpc.pb.h"
#include "vmm/remote_device/call_watchdog.h"
#include "vmm/remote_device/printable.h"

namespace bulkhead::vmm {
namespace {

// What a hostile device can make the vmm buffer: the longest answer that is taken, and what gRPC
// holds of a connection before it closes it.
constexpr int kMaxAnswerBytes = 256 * 1024;
constexpr size_t kMaxBufferedBytes = 4 << 20;
constexpr int kMaxHeaderBytes = 16 * 1024;

// gRPC's own word for an answer that it cannot parse, with the code of a call that is not there.
constexpr absl::string_view kNoMessage = "No message returned for unary request";

absl::Status ToStatus(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return absl::OkStatus();
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError("no answer came in time");
    case grpc::StatusCode::UNIMPLEMENTED:
      if (status.error_message() == kNoMessage) {
        return absl::DataLossError("its answer is none of this call");
      }
      [[fallthrough]];
    default:
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          Printable(status.error_message()));
  }
}

grpc::ChannelArguments Limits() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMaxHeaderBytes);
  // A quarter of a megabyte can unpack to half a gigabyte.
  arguments.SetInt(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  arguments.SetInt(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE);
  // A window stays as it is: no probing for more, which a flood would fill.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  grpc::ResourceQuota quota("device");
  quota.Resize(kMaxBufferedBytes);
  arguments.SetResourceQuota(quota);
  return arguments;
}

}  // namespace

class ControlCall::Context {
 public:
  grpc::ClientContext context;
  absl::Mutex mutex;
  CallWatchdog::Guard* guard ABSL_GUARDED_BY(mutex) = nullptr;  // while the call lasts
};

ControlCall::ControlCall(absl::Duration timeout, absl::Duration grace)
    : timeout_(std::max(timeout, absl::ZeroDuration())),
      grace_(grace),
      context_(std::make_unique<Context>()) {
  // Not by the wall clock, which may be set.
  context_->context.set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_nanos(absl::ToInt64Nanoseconds(timeout_), GPR_TIMESPAN)));
}

ControlCall::~ControlCall() = default;

void ControlCall::Cancel() {
  cancelled_.store(true, std::memory_order_relaxed);
  absl::MutexLock lock(&context_->mutex);
  if (context_->guard == nullptr) return;  // it will not begin, or has ended
  // The process may keep this thread busy in gRPC just as the one that called.
  const CallWatchdog::Guard guard(*context_->guard, kGrace);
  context_->guard->Hurry(std::min(grace_, kGrace));
  context_->context.TryCancel();
}

class ControlClient::Impl {
 public:
  // `socket` and `own` are descriptors of one socket; gRPC closes the first, at a time of its own.
  Impl(CallWatchdog& watchdog, UniqueFd socket, UniqueFd own)
      : watchdog_(watchdog),
        own_(std::move(own)),
        channel_(grpc::CreateCustomInsecureChannelFromFd("device", socket.release(), Limits())),
        stub_(v1::DeviceControl::NewStub(channel_)) {}
  ~Impl() {
    const CallWatchdog::Guard guard(watchdog_, own_.get(), absl::ZeroDuration(),
                                    ControlCall::kGrace);
    // What gRPC still has to write or read fails from here on.
    shutdown(own_.get(), SHUT_RDWR);
    stub_.reset();
    channel_.reset();
  }

  bool cut() const { return cut_.load(std::memory_order_relaxed); }

  template <typename Request, typename Reply>
  absl::StatusOr<Reply> Call(grpc::Status (v1::DeviceControl::Stub::*method)(grpc::ClientContext*,
                                                                             const Request&,
                                                                             Reply*),
                             ControlCall& call) {
    if (cut()) return absl::UnavailableError("its control connection was cut");
    CallWatchdog::Guard guard(watchdog_, own_.get(), call.timeout_, call.grace_);
    if (!call.Begin(guard)) return absl::CancelledError("cancelled before it began");
    Reply reply;
    const grpc::Status status = (stub_.get()->*method)(&call.context_->context, Request(), &reply);
    call.End();
    if (guard.cut()) {
      cut_.store(true, std::memory_order_relaxed);
      return absl::DeadlineExceededError("it kept its control connection from working");
    }
    if (!status.ok()) return ToStatus(status);
    return reply;
  }

 private:
  CallWatchdog& watchdog_;
  const UniqueFd own_;  // to shut the socket down
  std::atomic<bool> cut_{false};
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DeviceControl::Stub> stub_;
};

bool ControlCall::Begin(CallWatchdog::Guard& guard) {
  absl::MutexLock lock(&context_->mutex);
  if (cancelled()) return false;
  context_->guard = &guard;
  return true;
}

void ControlCall::End() {
  absl::MutexLock lock(&context_->mutex);
  context_->guard = nullptr;
}

void ControlClient::IsolateConnections() {
  // Its default, epoll1, has one set for all descriptors: whatever thread waits in gRPC reads for
  // all connections.
  setenv("GRPC_POLL_STRATEGY", "poll", /*overwrite=*/1);
}

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Create(UniqueFd socket) {
  // gRPC waits for the socket itself; none of its calls may block in it.
  if (fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "O_NONBLOCK on the control socket");
  }
  UniqueFd own(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!own.ok()) return ErrnoToStatus(errno, "F_DUPFD_CLOEXEC of the control socket");
  ASSIGN_OR_RETURN(CallWatchdog* const watchdog, CallWatchdog::Get());
  return std::unique_ptr<ControlClient>(
      new ControlClient(std::make_unique<Impl>(*watchdog, std::move(socket), std::move(own))));
}

ControlClient::ControlClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlClient::~ControlClient() = default;
bool ControlClient::cut() const { return impl_->cut(); }

absl::StatusOr<v1::PciInfo> ControlClient::GetPciInfo(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::GetPciInfo, call);
}

absl::StatusOr<v1::HeartbeatReply> ControlClient::Heartbeat(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Heartbeat, call);
}

absl::Status ControlClient::Reset(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Reset, call).status();
}

absl::Status ControlClient::Quiesce(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Quiesce, call).status();
}

absl::Status ControlClient::Resume(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Resume, call).status();
}

absl::StatusOr<v1::DeviceMetrics> ControlClient::GetMetrics(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::GetMetrics, call);
}

absl::Status ControlClient::Shutdown(ControlCall& call) {
  return impl_->Call(&v1::DeviceControl::Stub::Shutdown, call).status();
}

}  // namespace bulkhead::vmm
