// The commands of the control mailbox, and the guest's reset of the device, which is executed in
// the same way.
#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "devices/host/device_host.h"
#include "devices/host/metrics.h"
#include "proto/channel/channel_layout.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;
using CommandType = ControlMailbox::CommandType;

}  // namespace

void DeviceHost::TakeCommands() {
  commands_wait_ = false;
  if (command_ != nullptr && mode_ == Mode::kQuiescing && control_.IsAbandoned(*command_)) {
    EndCommand(absl::CancelledError("abandoned"));
    Resume();
  }
  while (!end_.has_value()) {
    const bool busy = command_ != nullptr || mode_ == Mode::kResetting;
    std::shared_ptr<Command> command = control_.Take(/*metrics_only=*/busy);
    if (command == nullptr) return;
    if (command->type == CommandType::kGetMetrics) {
      AppendMetrics(command->metrics);
      control_.Finish(*command, absl::OkStatus());
      continue;
    }
    command_ = std::move(command);
    BeginCommand();
  }
}

void DeviceHost::BeginCommand() {
  const bool quiesced = mode_ == Mode::kQuiesced;
  switch (command_->type) {
    case CommandType::kGetMetrics:
      return;
    case CommandType::kQuiesce:
      if (quiesced) {
        EndCommand(absl::OkStatus());
        return;
      }
      mode_ = Mode::kQuiescing;
      model_is_held_ = false;
      model_->SetServing(false);
      return;
    case CommandType::kResume:
      if (quiesced) {
        Resume();  // ExecuteCommand() follows, once the model serves
      } else {
        EndCommand(absl::OkStatus());
      }
      return;
    case CommandType::kReset:
      // Else ExecuteCommand() follows, once every request is applied.
      if (quiesced) {
        EndCommand(absl::FailedPreconditionError("the device is quiesced: resume it first"));
      }
      return;
    case CommandType::kShutdown:
      if (!quiesced) return;  // as with kReset
      end_ = absl::OkStatus();
      EndCommand(absl::OkStatus());
      return;
  }
}

bool DeviceHost::EndCommand(absl::Status result) {
  const bool in_time = control_.Finish(*command_, std::move(result));
  command_.reset();
  commands_wait_ = true;  // TakeCommands() took no others meanwhile
  return in_time;
}

void DeviceHost::ExecuteCommand() {
  if (!ServeRequestsSentSoFar()) return;
  switch (command_->type) {
    case CommandType::kReset:
      return BeginReset(nullptr);
    case CommandType::kShutdown:
      end_ = absl::OkStatus();
      EndCommand(absl::OkStatus());
      return;
    case CommandType::kResume:
      EndCommand(absl::OkStatus());
      return;
    default:
      return;
  }
}

void DeviceHost::AwaitRest() {
  if (mode_ != Mode::kQuiesced && model_->at_rest()) {
    if (mode_ == Mode::kResetting) return FinishReset();
    return FinishQuiesce();
  }
  if (mode_ == Mode::kResetting) {
    // Work in flight may never end, on a disk that does not answer. vCPUs must not wait for it:
    // they see a function that is being reset.
    ServeWhileResetting();
    Sleep();
    return;
  }
  poller_->Wait(SleepLimit(absl::InfiniteDuration()), [this] { AfterCallback(); });
  KeepAlive();
}

void DeviceHost::FinishQuiesce() {
  // Saves even if the model reported no change: the successor has nothing but this.
  Save(channel_->processed(), /*answer=*/0);
  mode_ = Mode::kQuiesced;
  // For a caller that has given up the command failed, and it would not resume the device.
  if (!EndCommand(absl::OkStatus())) Resume();
}

void DeviceHost::Resume() {
  mode_ = Mode::kServing;
  model_is_held_ = true;
  // The model may have ignored one while it was not serving.
  RingAllDoorbells();
}

void DeviceHost::BeginReset(const Request* request) {
  reset_by_command_ = request == nullptr;
  reset_request_.reset();
  if (request != nullptr) reset_request_ = *request;
  mode_ = Mode::kResetting;
  // First of all: if this process dies in the middle, its successor starts from a reset device.
  OrderReset(request != nullptr ? request->ticket : channel_->processed());
  CRASH_POINT("reset_ordered");
  model_->Reset();
  if (model_->at_rest()) return FinishReset();
  // The requests behind it are served meanwhile, and this one is answered late.
  if (!reset_request_.has_value()) return;
  channel_->Defer(*reset_request_);
  deferred_resets_.push_back(*std::exchange(reset_request_, std::nullopt));
}

void DeviceHost::OrderReset(uint64_t ticket) {
  if (durable_ == nullptr) return;
  durable_->SaveResetOrder({.ticket = ticket, .answer = 0, .function_state = function_state_});
}

void DeviceHost::ServeWhileResetting() {
  Request request;
  for (uint32_t i = 0; i < ring_slots_ && channel_->TryPeek(request); ++i) {
    ++counters_.requests[static_cast<size_t>(request.operation)];
    switch (request.operation) {
      case Operation::kReset:  // joins the one that is under way
        channel_->Defer(request);
        deferred_resets_.push_back(request);
        break;
      case Operation::kSetFunctionState:
        if (is_pci_) {
          attached_function_state_.reset();
          function_state_ = request.data;  // forwarded to the model when it has been reset
          OrderReset(request.ticket);
        }
        Complete(request, 0);
        break;
      default:
        Complete(request, request.operation == Operation::kRead ? ~uint64_t{0} : 0);
    }
    OnLookedForRequests();
  }
  OnLookedForRequests();
}

void DeviceHost::FinishReset() {
  CRASH_POINT("reset_at_rest");
  interrupts_.Reset();
  const absl::Span<uint8_t> memory = durable_memory();
  std::fill(memory.begin(), memory.end(), 0);
  CRASH_POINT("reset_memory_zeroed");
  // Only the vmm changes the function state, but the model may have reset its copy.
  if (is_pci_) ForwardFunctionState();
  mode_ = Mode::kServing;
  commands_wait_ = true;  // TakeCommands() took none meanwhile
  Save(reset_request_.has_value() ? reset_request_->ticket : channel_->processed(), /*answer=*/0);
  CRASH_POINT("reset_saved");
  if (reset_request_.has_value()) Complete(*std::exchange(reset_request_, std::nullopt), 0);
  for (const Request& request : deferred_resets_) channel_->AnswerDeferred(request, 0);
  deferred_resets_.clear();
  if (reset_by_command_) EndCommand(absl::OkStatus());
}

void DeviceHost::AppendMetrics(v1::DeviceMetrics& metrics) const {
  const auto requests = [this](Operation operation) {
    return counters_.requests[static_cast<size_t>(operation)];
  };
  AddCounter(metrics, "register_reads_total", "Reads of registers by the guest",
             requests(Operation::kRead));
  AddCounter(metrics, "register_posted_writes_total", "Writes that the guest did not wait for",
             requests(Operation::kPostedWrite));
  AddCounter(metrics, "register_writes_total", "Writes that the guest waited for",
             requests(Operation::kWrite));
  AddCounter(metrics, "function_states_total", "Changes of what a PCI function may do",
             requests(Operation::kSetFunctionState));
  AddCounter(metrics, "resets_total", "Resets by the guest", requests(Operation::kReset));
  AddCounter(metrics, "doorbells_total", "Doorbells served; several rings may be one",
             counters_.doorbells);
  AddCounter(metrics, "msix_interrupts_total", "MSI-X messages sent", interrupts_.msix_signals());
  AddCounter(metrics, "line_interrupts_total", "Times that the interrupt line was asserted",
             interrupts_.line_signals());
  AddCounter(metrics, "saves_total", "Times that the device's state was saved",
             durable_ != nullptr ? durable_->saves() : 0);
  const channel::ChannelServer::Counters channel = channel_->counters();
  AddCounter(metrics, "sleeps_total", "Times that the device slept until it was woken",
             channel.sleeps);
  AddCounter(metrics, "polls_total", "Times that it first polled for work", channel.polls);
  AddCounter(metrics, "poll_hits_total", "Polls that found some", channel.poll_hits);
  AddCounter(metrics, "refused_requests_total", "Malformed requests", channel.refused);
  model_->AppendMetrics(metrics);
}

}  // namespace bulkhead::devices
