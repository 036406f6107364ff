#include "vmm/process/control_client.h"

#include <stdlib.h>
#include <sys/socket.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "grpc/compression.h"
#include "grpc/support/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/channel_arguments.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "proto/device_control.grpc.pb.h"
#include "proto/grpc_deadline.h"
#include "vmm/process/call_watchdog.h"
#include "vmm/process/control_relay.h"
#include "vmm/process/printable.h"

namespace bulkhead::vmm {
namespace {

// Bounds of what a hostile device can make the vmm buffer: the longest answer that is accepted, and
// the memory that gRPC uses for a connection before it closes it.
constexpr int kMaxAnswerBytes = 256 * 1024;
constexpr size_t kMaxBufferedBytes = 4 << 20;
constexpr int kMaxHeaderBytes = 16 * 1024;
// What a process may send for each call, headers and frames included, and what for the longest
// answers beside.
constexpr size_t kCallBytes = 4 * 1024;
static_assert(kMaxAnswerBytes + 2 * kCallBytes <= ControlRelay::kMaxAllowance);

// Between two attempts to wait while gRPC has no descriptor to wait with.
constexpr absl::Duration kRetryInterval = absl::Milliseconds(10);

absl::Status ToStatus(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return absl::OkStatus();
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError("no answer came in time");
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnimplementedError(
          "it does not know this call: build it and vmm from one source");
    default:
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          Printable(status.error_message()));
  }
}

// Makes the queue open the descriptor that it waits with; it keeps the descriptor.
void OpenDescriptor(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  queue.AsyncNext(&tag, &ok, gpr_inf_past(GPR_CLOCK_MONOTONIC));
}

// Waits for the one call that uses the queue. If gRPC cannot wait (EMFILE), a deadline or a
// cancellation still ends the call. gRPC's own wait for a unary call is not used: on EMFILE it
// returns before the call is over, and the call later writes into freed memory.
void AwaitCall(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  while (queue.AsyncNext(&tag, &ok, gpr_inf_future(GPR_CLOCK_MONOTONIC)) !=
         grpc::CompletionQueue::GOT_EVENT) {
    absl::SleepFor(kRetryInterval);
  }
}

grpc::ChannelArguments Limits() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMaxHeaderBytes);
  // No decompression: 256 KiB can expand to half a gigabyte.
  arguments.SetInt(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  arguments.SetInt(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE);
  // The window must not grow by probing: a flood would fill it.
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
  context_->context.set_deadline(GrpcDeadline(timeout_));
}

ControlCall::~ControlCall() = default;

void ControlCall::Cancel() {
  cancelled_.store(true, std::memory_order_relaxed);
  absl::MutexLock lock(&context_->mutex);
  if (context_->guard == nullptr) return;  // it will not begin, or has ended
  // The process may keep this thread busy in gRPC, as it may the calling thread.
  const CallWatchdog::Guard guard(*context_->guard, kGrace);
  context_->guard->Expire(std::min(grace_, kGrace));
  context_->context.TryCancel();
}

class ControlClient::Impl {
 public:
  // gRPC closes `socket` when it likes.
  Impl(CallWatchdog& watchdog, std::unique_ptr<ControlRelay::Connection> connection,
       UniqueFd socket)
      : watchdog_(watchdog),
        connection_(std::move(connection)),
        channel_(grpc::CreateCustomInsecureChannelFromFd("device", socket.release(), Limits())),
        stub_(std::make_unique<grpc::GenericStub>(channel_)) {
    ReturnQueue(TakeQueue());
  }
  ~Impl() {
    const CallWatchdog::Guard guard(watchdog_, connection_->socket(), absl::ZeroDuration(),
                                    ControlCall::kGrace);
    // From here on gRPC's reads and writes fail.
    shutdown(connection_->socket(), SHUT_RDWR);
    stub_.reset();
    channel_.reset();
  }

  absl::string_view why_cut() const {
    return stuck_.load(std::memory_order_relaxed) ? "it blocked its control connection"
                                                  : connection_->why_cut();
  }

  // `method`: of the service DeviceControl. Its request is empty. `answer_bytes`: of an answer that
  // may be long.
  template <typename Reply>
  absl::StatusOr<Reply> Call(absl::string_view method, ControlCall& call, size_t answer_bytes = 0) {
    if (!why_cut().empty()) return absl::UnavailableError("the control connection was cut");
    CallWatchdog::Guard guard(watchdog_, connection_->socket(), call.timeout_, call.grace_);
    if (!call.Begin(guard)) return absl::CancelledError("cancelled before the call began");
    connection_->Allow(kCallBytes + answer_bytes);
    grpc::ByteBuffer answer;
    const grpc::Status status = Run(method, call.context_->context, answer);
    call.End();
    if (guard.cut()) stuck_.store(true, std::memory_order_relaxed);
    if (!status.ok()) {
      const absl::string_view why = why_cut();
      return why.empty() ? ToStatus(status) : absl::InternalError(why);
    }
    Reply reply;
    if (!answer.Valid() ||
        !grpc::GenericDeserialize<grpc::ProtoBufferReader, Reply>(&answer, &reply).ok()) {
      return absl::DataLossError(absl::StrCat("it sent an invalid answer to ", method));
    }
    return reply;
  }

 private:
  grpc::Status Run(absl::string_view method, grpc::ClientContext& context,
                   grpc::ByteBuffer& answer) {
    std::unique_ptr<grpc::CompletionQueue> queue = TakeQueue();
    const grpc::Slice empty;
    const grpc::ByteBuffer request(&empty, 1);
    grpc::Status status;
    const auto reader = stub_->PrepareUnaryCall(
        &context, absl::StrCat("/", v1::DeviceControl::service_full_name(), "/", method), request,
        queue.get());
    reader->StartCall();
    reader->Finish(&answer, &status, nullptr);
    AwaitCall(*queue);
    ReturnQueue(std::move(queue));
    return status;
  }

  // A queue for each call in flight. Queues are kept, each with its descriptor, so that calls
  // work during a shortage of descriptors.
  std::unique_ptr<grpc::CompletionQueue> TakeQueue() {
    {
      absl::MutexLock lock(&mutex_);
      if (!queues_.empty()) {
        std::unique_ptr<grpc::CompletionQueue> queue = std::move(queues_.back());
        queues_.pop_back();
        return queue;
      }
    }
    auto queue = std::make_unique<grpc::CompletionQueue>();
    OpenDescriptor(*queue);
    return queue;
  }

  void ReturnQueue(std::unique_ptr<grpc::CompletionQueue> queue) {
    absl::MutexLock lock(&mutex_);
    queues_.push_back(std::move(queue));
  }

  CallWatchdog& watchdog_;
  const std::unique_ptr<ControlRelay::Connection> connection_;
  std::atomic<bool> stuck_{false};  // the watchdog has cut the connection
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> stub_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<grpc::CompletionQueue>> queues_ ABSL_GUARDED_BY(mutex_);
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
  // The default, epoll1, has one set for all descriptors: any thread that waits in gRPC reads from
  // all connections.
  setenv("GRPC_POLL_STRATEGY", "poll", /*overwrite=*/1);
}

// gRPC initialises with the first channel and shuts down with the last one. If it cannot open a
// descriptor when it initialises again, it aborts the process. So one channel always exists; it is
// never connected.
static void KeepGrpcInitialised() {
  // Used: else the compiler drops the pointer, and LeakSanitizer reports the channel.
  [[gnu::used]] static const auto* const channel = new std::shared_ptr<grpc::Channel>(
      grpc::CreateChannel("unix:/nowhere", grpc::InsecureChannelCredentials()));
  static_cast<void>(channel);
}

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Create(
    UniqueFd socket, std::shared_ptr<PendingCloses> closes) {
  KeepGrpcInitialised();
  ASSIGN_OR_RETURN(CallWatchdog* const watchdog, CallWatchdog::Get());
  ASSIGN_OR_RETURN(ControlRelay* const relay, ControlRelay::Get());
  ASSIGN_OR_RETURN(auto connected,
                   relay->Connect(std::move(socket), kCallBytes, std::move(closes)));
  return std::unique_ptr<ControlClient>(new ControlClient(
      std::make_unique<Impl>(*watchdog, std::move(connected.first), std::move(connected.second))));
}

ControlClient::ControlClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlClient::~ControlClient() = default;
absl::string_view ControlClient::why_cut() const { return impl_->why_cut(); }

absl::StatusOr<v1::DeviceInfo> ControlClient::Describe(ControlCall& call) {
  return impl_->Call<v1::DeviceInfo>("Describe", call, kMaxAnswerBytes);
}

absl::StatusOr<v1::HeartbeatReply> ControlClient::Heartbeat(ControlCall& call) {
  return impl_->Call<v1::HeartbeatReply>("Heartbeat", call);
}

absl::Status ControlClient::Reset(ControlCall& call) {
  return impl_->Call<v1::ResetReply>("Reset", call).status();
}

absl::Status ControlClient::Quiesce(ControlCall& call) {
  return impl_->Call<v1::QuiesceReply>("Quiesce", call).status();
}

absl::Status ControlClient::Resume(ControlCall& call) {
  return impl_->Call<v1::ResumeDeviceReply>("Resume", call).status();
}

absl::StatusOr<v1::DeviceMetrics> ControlClient::GetMetrics(ControlCall& call) {
  return impl_->Call<v1::DeviceMetrics>("GetMetrics", call, kMaxAnswerBytes);
}

absl::Status ControlClient::Shutdown(ControlCall& call) {
  return impl_->Call<v1::ShutdownDeviceReply>("Shutdown", call).status();
}

}  // namespace bulkhead::vmm
