#include "vmm/control/console_call.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/control/grpc_status.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kMaxOutputBytes = 16 * 1024;  // a message

}  // namespace

grpc::ServerBidiReactor<v1::ConsoleInput, v1::ConsoleOutput>* ConsoleCall::Start(
    OpenCalls& streams, VmOperations& vm, std::function<void()> wake) {
  const std::shared_ptr<ConsoleCall> call(new ConsoleCall(streams, vm, std::move(wake)));
  call->self_ = call;
  if (absl::Status status = streams.Add(call); !status.ok()) {
    call->finished_ = true;
    call->Finish(ToGrpcStatus(status));
  } else {
    call->Pump();
  }
  return call.get();
}

void ConsoleCall::OnDone() {
  streams_.Remove(this);
  self_.reset();
}

void ConsoleCall::FinishWith(const absl::Status& status) {
  finished_ = true;
  client_.reset();  // before the call ends: the console may be destroyed after it
  Finish(ToGrpcStatus(status));
}

void ConsoleCall::Step(const Changes& changes) {
  if (changes.written) writing_ = false;
  if (changes.read) {
    reading_ = false;
    has_input_ = !changes.input_ended;
    typed_ = 0;
  }
  if (changes.input_ended) input_ended_ = true;
  if (!changes.end.ok()) end_ = changes.end;
  if (finished_) return;
  if (changes.cancelled) return FinishWith(absl::CancelledError());

  if (const absl::Status status = TakeInput(); !status.ok()) return FinishWith(status);
  if (writing_) return;
  if (client_ != nullptr) {
    uint64_t lost = 0;
    output_.Clear();
    if (client_->Take(kMaxOutputBytes, *output_.mutable_data(), lost)) {
      output_.set_lost_bytes(lost);
      writing_ = true;
      StartWrite(&output_);
      return;
    }
  }
  if (!end_.ok()) FinishWith(end_);
}

absl::Status ConsoleCall::TakeInput() {
  if (has_input_) {
    if (client_ == nullptr) {
      RETURN_IF_ERROR(Attach());
    } else if (!input_.device().empty() && input_.device() != device_) {
      return absl::InvalidArgumentError(
          absl::StrCat("the first message selected the console '", device_,
                       "': use another AttachConsole call for '", input_.device(), "'"));
    }
    typed_ += client_->Type(absl::string_view(input_.data()).substr(typed_));
    has_input_ = typed_ < input_.data().size();
  }
  if (input_ended_ && client_ == nullptr) {
    return absl::InvalidArgumentError(
        "the stream has no message: send one whose `device` selects the console (it may be empty)");
  }
  if (!has_input_ && !reading_ && !input_ended_) {
    reading_ = true;
    StartRead(&input_);
  }
  return absl::OkStatus();
}

absl::Status ConsoleCall::Attach() {
  device_ = input_.device();
  ASSIGN_OR_RETURN(ConsoleHub * hub, vm_.Console(device_));
  client_ = hub->Attach(wake_);
  StartSendInitialMetadata();
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
