#include "vmm/control/event_stream.h"

#include <optional>
#include <utility>

#include "vmm/control/grpc_status.h"

namespace bulkhead::vmm {

grpc::ServerWriteReactor<v1::Event>* EventStream::Start(OpenCalls& streams, VmOperations& vm,
                                                        bool only_past) {
  const std::shared_ptr<EventStream> stream(new EventStream(streams, vm, only_past));
  stream->self_ = stream;
  if (absl::Status status = streams.Add(stream); !status.ok()) {
    stream->finished_ = true;
    stream->Finish(ToGrpcStatus(status));
  } else {
    stream->Pump();
  }
  return stream.get();
}

void EventStream::OnDone() {
  streams_.Remove(this);
  self_.reset();
}

void EventStream::Step(const Changes& changes) {
  if (changes.written) writing_ = false;
  if (!changes.end.ok()) end_ = changes.end;
  if (finished_) return;
  if (changes.cancelled) {
    finished_ = true;
    Finish(grpc::Status::CANCELLED);
    return;
  }
  if (writing_) return;
  if (std::optional<v1::Event> next = feed_.Next(); next.has_value()) {
    message_ = *std::move(next);
    writing_ = true;
    StartWrite(&message_);
    return;
  }
  if (!feed_.complete() && end_.ok()) return;
  finished_ = true;
  Finish(feed_.complete() ? grpc::Status::OK : ToGrpcStatus(end_));
}

}  // namespace bulkhead::vmm
