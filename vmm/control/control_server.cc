#include "vmm/control/control_server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>

#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/blocked_signals.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "grpc/grpc.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_posix.h"
#include "proto/grpc_deadline.h"
#include "vmm/control/client_check.h"
#include "vmm/control/client_connections.h"
#include "vmm/control/listening_socket.h"
#include "vmm/control/open_calls.h"
#include "vmm/control/read_only_vm.h"
#include "vmm/control/reflection.h"
#include "vmm/control/refused_clients.h"
#include "vmm/control/vm_control_service.h"

namespace bulkhead::vmm {
namespace {

// Requests are small, and so is console input, also when it is pasted.
constexpr int kMaxRequestBytes = 64 * 1024;
constexpr int kMaxStreamsOfAConnection = 32;
// The memory that gRPC may use for all clients together. Beyond it gRPC ends the largest calls.
constexpr size_t kMaxBufferedBytes = 16 << 20;
constexpr absl::Duration kIdleConnection = absl::Minutes(10);
// The pause after accept(2) has failed for lack of descriptors or memory.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(200);
constexpr int kAcceptsAtOnce = 16;
constexpr absl::Duration kBetweenWarnings = absl::Minutes(1);

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

std::unique_ptr<grpc::Server> StartGrpc(VmControlService& control, ReflectionService& reflection,
                                        const ControlLimits& limits) {
  // No grpc_shutdown(): the library's last user would wait for its threads, one of which may sleep
  // for 10 s after a client has not read.
  grpc_init();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ResourceQuota quota("control");
  quota.Resize(kMaxBufferedBytes);
  grpc::ServerBuilder builder;
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  // No decompression: a request of 64 KiB could expand to 64 MiB, which the quota does not count.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsOfAConnection);
  // The window must not grow by probing: a flood would fill it.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(limits.keepalive));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(limits.keepalive));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, Milliseconds(kIdleConnection));
  builder.RegisterService(&control);
  builder.RegisterService(&reflection);
  return builder.BuildAndStart();
}

}  // namespace

class ControlServer::Impl {
 public:
  // `read_only`: set for a monitor, which serves `vm` through it.
  Impl(VmOperations& vm, std::unique_ptr<ReadOnlyVm> read_only, ListeningSocket socket,
       EventFd wake, RefusedClients& refused, const ControlLimits& limits)
      : read_only_(std::move(read_only)),
        vm_(read_only_ == nullptr ? vm : *read_only_),
        name_(read_only_ == nullptr ? "control" : "monitor"),
        limits_(limits),
        socket_(std::in_place, std::move(socket)),
        wake_(std::move(wake)),
        refused_(refused),
        connections_(limits.connections),
        streams_(limits.streams, "watch events or a console"),
        long_calls_(limits.long_calls, "wait for the VM"),
        reflections_(limits.streams, "ask for reflection"),
        control_(vm_, refused, streams_, long_calls_, [this] { wake_.Signal(); }),
        reflection_(reflections_) {}
  ~Impl();

  absl::Status Start();

 private:
  void Loop(const std::stop_token& stop);
  void AcceptConnections();
  // False: the client may not use the socket.
  bool Admit(int connection);
  void WarnOfRefusal(absl::string_view why);
  void UpdateHealth();

  const std::unique_ptr<ReadOnlyVm> read_only_;
  VmOperations& vm_;
  const char* const name_;
  const ControlLimits limits_;
  const ServingProcess this_process_ = ServingProcess::Current();
  std::optional<ListeningSocket> socket_;
  EventFd wake_;
  RefusedClients& refused_;
  ClientConnections connections_;
  OpenCalls streams_;
  OpenCalls long_calls_;
  OpenCalls reflections_;
  VmControlService control_;
  ReflectionService reflection_;
  std::unique_ptr<grpc::Server> server_;
  uint64_t listener_ = 0;

  // While the server ends: the thread has left its loop, and gRPC has closed all connections.
  std::promise<void> loop_ended_;
  std::promise<void> drained_;
  std::jthread thread_;
  // Used by the thread only.
  absl::Time accept_from_ = absl::InfinitePast();
  absl::Time warn_from_ = absl::InfinitePast();
  std::optional<bool> healthy_;
};

absl::Status ControlServer::Impl::Start() {
  refused_.AddSocket(name_);
  server_ = StartGrpc(control_, reflection_, limits_);
  if (server_ == nullptr)
    return absl::InternalError(absl::StrCat(name_, " socket: gRPC did not start"));
  UpdateHealth();
  listener_ = vm_.events().Listen([this] { wake_.Signal(); });
  const BlockedSignals blocked;  // the thread inherits the mask
  thread_ = std::jthread([this](const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), name_);
    Loop(stop);
    loop_ended_.set_value();
    // gRPC does not close a connection while it has something to write: a client that does not
    // read could block the shutdown for ever. So the connections are cut after the timeout.
    // std::future uses the steady clock, unlike abseil's timed waits.
    const std::future_status drained =
        drained_.get_future().wait_for(absl::ToChronoMilliseconds(limits_.drain_timeout));
    if (drained == std::future_status::timeout) connections_.Cut();
  });
  return absl::OkStatus();
}

ControlServer::Impl::~Impl() {
  if (thread_.joinable()) {
    thread_.request_stop();
    wake_.Signal();
    loop_ended_.get_future().wait();
  }
  socket_.reset();
  if (listener_ != 0) vm_.events().Unlisten(listener_);
  if (server_ == nullptr) return;
  server_->GetHealthCheckService()->SetServingStatus(false);
  const std::string reason = vm_.Status().exit_reason();
  const absl::Status why =
      absl::UnavailableError(absl::StrCat("the VM has ended", reason.empty() ? "" : ": ", reason));
  long_calls_.EndAll(why);
  reflections_.EndAll(why);
  streams_.EndAll(why);
  server_->Shutdown(GrpcDeadline(limits_.drain_timeout));
  drained_.set_value();
  if (thread_.joinable()) thread_.join();
}

void ControlServer::Impl::Loop(const std::stop_token& stop) {
  std::vector<pollfd> polled;
  while (true) {
    const absl::Duration pause = accept_from_ - SteadyNow();
    const bool accepting = pause <= absl::ZeroDuration();
    polled.clear();
    polled.push_back({.fd = wake_.fd(), .events = POLLIN, .revents = 0});
    polled.push_back({.fd = accepting ? socket_->fd() : -1, .events = POLLIN, .revents = 0});
    connections_.AppendTo(polled);
    // No timeout while accepting: wake_ ends the wait.
    if (poll(polled.data(), polled.size(), accepting ? -1 : Milliseconds(pause) + 1) <= 0) continue;
    const bool woken = wake_.Drain();
    // After Drain(): the stop is requested before its signal, so this check finds it, or the next
    // one does.
    if (stop.stop_requested()) return;
    connections_.Remove(&polled[2]);
    if (polled[1].revents != 0) AcceptConnections();
    if (woken) {
      UpdateHealth();
      streams_.PumpAll();
    }
  }
}

void ControlServer::Impl::AcceptConnections() {
  // A few at a time, so that many connecting clients do not delay the streams.
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    absl::StatusOr<UniqueFd> connection = socket_->Accept();
    if (!connection.ok()) {
      if (absl::IsUnavailable(connection.status())) return;
      WarnOfRefusal(connection.status().message());
      accept_from_ = SteadyNow() + kAcceptPause;
      return;
    }
    if (!Admit(connection->get())) continue;
    if (connections_.full()) {
      WarnOfRefusal(absl::StrCat("all ", limits_.connections, " are in use"));
      continue;
    }
    if (const absl::Status status = connections_.Add(connection->get()); !status.ok()) {
      WarnOfRefusal(status.message());
      continue;
    }
    grpc::AddInsecureChannelFromFd(server_.get(), connection->release());
  }
}

bool ControlServer::Impl::Admit(int connection) {
  const absl::StatusOr<ClientProcess> client = ClientOf(connection);
  absl::Status status = client.status();
  // The mode of a monitor's file says whom it lets in.
  if (status.ok() && read_only_ == nullptr) status = CheckUser(*client, this_process_);
  if (status.ok()) status = CheckNotDescendant(*client, this_process_);
  if (status.ok()) return true;
  refused_.Count(name_);
  WarnOfRefusal(client.ok() ? absl::StrCat(client->Name(), ": ", status.message())
                            : status.ToString());
  return false;
}

void ControlServer::Impl::WarnOfRefusal(absl::string_view why) {
  if (SteadyNow() < warn_from_) return;
  warn_from_ = SteadyNow() + kBetweenWarnings;
  LogWarning(absl::StrCat(name_, " socket: refusing connections: ", why));
}

void ControlServer::Impl::UpdateHealth() {
  const v1::VmStatus::State state = vm_.Status().state();
  const bool healthy = state != v1::VmStatus::STARTING && state != v1::VmStatus::ENDING;
  if (healthy_ == healthy) return;
  healthy_ = healthy;
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  health->SetServingStatus(v1::VmControl::service_full_name(), healthy);
  health->SetServingStatus(healthy);
}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(VmOperations& vm,
                                                                    ListeningSocket socket,
                                                                    RefusedClients& refused,
                                                                    const ControlLimits& limits) {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  return Start(
      std::make_unique<Impl>(vm, nullptr, std::move(socket), std::move(wake), refused, limits));
}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::StartMonitor(
    VmOperations& vm, ListeningSocket socket, absl::string_view control_socket,
    RefusedClients& refused, const ControlLimits& limits) {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  return Start(std::make_unique<Impl>(vm, std::make_unique<ReadOnlyVm>(vm, control_socket),
                                      std::move(socket), std::move(wake), refused, limits));
}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(std::unique_ptr<Impl> impl) {
  RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() = default;

}  // namespace bulkhead::vmm
