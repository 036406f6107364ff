#include "vmm/control/trace_stream.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/channel/trace_ring.h"
#include "vmm/control/call_after.h"
#include "vmm/control/grpc_status.h"
#include "vmm/vm/vm_trace.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kDefaultSeconds = 10;
constexpr uint32_t kMaxSeconds = 600;

absl::StatusOr<std::unique_ptr<VmTrace>> Begin(VmOperations& vm, const v1::TraceRequest& request) {
  const uint32_t seconds = request.seconds() == 0 ? kDefaultSeconds : request.seconds();
  if (seconds > kMaxSeconds) {
    return absl::InvalidArgumentError(
        absl::StrCat("seconds: ", seconds, " is out of range (1 to ", kMaxSeconds, ")"));
  }
  return vm.StartTrace(absl::Seconds(seconds));
}

}  // namespace

grpc::ServerWriteReactor<v1::TraceChunk>* TraceStream::Start(OpenCalls& streams, VmOperations& vm,
                                                             const v1::TraceRequest& request) {
  const std::shared_ptr<TraceStream> stream(new TraceStream(streams));
  stream->self_ = stream;
  absl::StatusOr<std::unique_ptr<VmTrace>> trace = Begin(vm, request);
  absl::Status status = trace.status();
  if (trace.ok()) {
    stream->trace_ = *std::move(trace);
    status = streams.Add(stream);  // from now on other threads may call it
  }
  if (status.ok()) {
    stream->Pump();
  } else {
    stream->FinishWith(status);
  }
  return stream.get();
}

void TraceStream::OnDone() {
  streams_.Remove(this);
  self_.reset();
}

void TraceStream::FinishWith(const absl::Status& status) {
  finished_ = true;
  trace_.reset();
  Finish(ToGrpcStatus(status));
}

void TraceStream::Step(const Changes& changes) {
  if (changes.written) writing_ = false;
  if (!changes.end.ok()) end_ = changes.end;
  if (finished_) return;
  if (changes.cancelled) return FinishWith(absl::CancelledError());
  if (writing_) return;
  if (!end_.ok()) return FinishWith(end_);
  if (std::optional<v1::TraceChunk> next = trace_->Next(channel::TraceNow()); next.has_value()) {
    message_ = *std::move(next);
    writing_ = true;
    StartWrite(&message_);
  } else if (trace_->complete()) {
    FinishWith(absl::OkStatus());
  } else {
    Wait();
  }
}

void TraceStream::Wait() {
  // Other reasons for a step must not add timers.
  if (waits_.exchange(true)) return;
  CallAfter(VmTrace::kInterval, [this, keep = shared_from_this()] {
    waits_.store(false);
    Pump();
  });
}

}  // namespace bulkhead::vmm
