// What is called for through the control mailbox, and the guest's reset of the device, which takes
// the same way.
#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "devices/host/device_host.h"
#include "proto/channel/channel_layout.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;
using Command = ControlMailbox::Command;

void AddCounter(v1::DeviceMetrics& metrics, const char* name, const char* help, uint64_t value) {
  v1::DeviceMetric& metric = *metrics.add_metrics();
  metric.set_name(name);
  metric.set_help(help);
  metric.set_value(static_cast<double>(value));
}

}  // namespace

void DeviceHost::ReadMail() {
  has_mail_ = false;
  if (letter_ != nullptr && mode_ == Mode::kQuiescing && control_.IsAbandoned(*letter_)) {
    CloseLetter(absl::CancelledError("abandoned"));
    Resume();
  }
  while (!end_.has_value()) {
    const bool busy = letter_ != nullptr || mode_ == Mode::kResetting;
    std::shared_ptr<Letter> letter = control_.Take(/*metrics_only=*/busy);
    if (letter == nullptr) return;
    if (letter->command == Command::kGetMetrics) {
      AppendMetrics(letter->metrics);
      control_.Finish(*letter, absl::OkStatus());
      continue;
    }
    letter_ = std::move(letter);
    OpenLetter();
  }
}

void DeviceHost::OpenLetter() {
  const bool quiesced = mode_ == Mode::kQuiesced;
  switch (letter_->command) {
    case Command::kGetMetrics:
      return;
    case Command::kQuiesce:
      if (quiesced) {
        CloseLetter(absl::OkStatus());
        return;
      }
      mode_ = Mode::kQuiescing;
      model_is_held_ = false;
      model_->SetServing(false);
      return;
    case Command::kResume:
      if (quiesced) {
        Resume();  // ActOnLetter() follows, once the model serves
      } else {
        CloseLetter(absl::OkStatus());
      }
      return;
    case Command::kReset:
      // Else ActOnLetter() follows, once every request is applied.
      if (quiesced) {
        CloseLetter(absl::FailedPreconditionError("the device is quiesced: resume it first"));
      }
      return;
    case Command::kShutdown:
      if (!quiesced) return;  // as with kReset
      end_ = absl::OkStatus();
      CloseLetter(absl::OkStatus());
      return;
  }
}

bool DeviceHost::CloseLetter(absl::Status result) {
  const bool in_time = control_.Finish(*letter_, std::move(result));
  letter_.reset();
  has_mail_ = true;  // others may have waited for this one
  return in_time;
}

void DeviceHost::ActOnLetter() {
  if (!ServeRequestsSentSoFar()) return;
  switch (letter_->command) {
    case Command::kReset:
      return BeginReset(nullptr);
    case Command::kShutdown:
      end_ = absl::OkStatus();
      CloseLetter(absl::OkStatus());
      return;
    case Command::kResume:
      CloseLetter(absl::OkStatus());
      return;
    default:
      return;
  }
}

void DeviceHost::Rest() {
  if (mode_ != Mode::kQuiesced && model_->at_rest()) {
    if (mode_ == Mode::kResetting) return FinishReset();
    return FinishQuiesce();
  }
  poller_->Wait(absl::InfiniteDuration(), [this] { AfterCallback(); });
}

void DeviceHost::FinishQuiesce() {
  // Whatever the model has told: what is saved now is all there is.
  Save(channel_->processed(), /*answer=*/0);
  mode_ = Mode::kQuiesced;
  // To somebody who has given up, this failed: nobody would resume the device.
  if (!CloseLetter(absl::OkStatus())) Resume();
}

void DeviceHost::Resume() {
  mode_ = Mode::kServing;
  model_is_held_ = true;
  // The model may have let one pass while it was not serving.
  RingAllDoorbells();
}

void DeviceHost::BeginReset(const Request* request) {
  reset_request_.reset();
  if (request != nullptr) reset_request_ = *request;
  mode_ = Mode::kResetting;
  const uint64_t ticket = request != nullptr ? request->ticket : channel_->processed();
  // First of all: whoever dies in the middle leaves a successor that starts anew.
  if (durable_ != nullptr) {
    durable_->SaveResetOrder({.ticket = ticket, .answer = 0, .function_state = function_state_});
  }
  CRASH_POINT("reset_ordered");
  model_->Reset();
  if (model_->at_rest()) FinishReset();
}

void DeviceHost::FinishReset() {
  CRASH_POINT("reset_at_rest");
  interrupts_.Reset();
  const absl::Span<uint8_t> memory = durable_memory();
  std::fill(memory.begin(), memory.end(), 0);
  CRASH_POINT("reset_memory_zeroed");
  // The vmm's to change, and it did not; but the model may have forgotten it.
  if (is_pci_) TellFunctionState();
  mode_ = Mode::kServing;
  has_mail_ = true;  // some may have waited
  Save(reset_request_.has_value() ? reset_request_->ticket : channel_->processed(), /*answer=*/0);
  CRASH_POINT("reset_saved");
  if (reset_request_.has_value()) {
    Complete(*reset_request_, 0);
  } else {
    CloseLetter(absl::OkStatus());
  }
}

void DeviceHost::AppendMetrics(v1::DeviceMetrics& metrics) const {
  const auto requests = [this](Operation operation) {
    return counters_.requests[static_cast<size_t>(operation)];
  };
  AddCounter(metrics, "register_reads_total", "Reads of registers by the guest", requests(Operation::kRead));
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
  AddCounter(metrics, "polls_total", "Times that it first polled for the next request",
             channel.polls);
  AddCounter(metrics, "poll_hits_total", "Polls that found one", channel.poll_hits);
  AddCounter(metrics, "refused_requests_total", "Malformed requests", channel.refused);
  model_->AppendMetrics(metrics);
}

}  // namespace bulkhead::devices
