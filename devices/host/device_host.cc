#include "devices/host/device_host.h"

#include <sched.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/access_mask.h"
#include "base/crash_point.h"
#include "base/message_socket.h"
#include "base/release_startup_pages.h"
#include "base/seccomp_filter.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/wake_pipe.h"
#include "proto/contract.h"
#include "proto/durable_layout.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;

constexpr uint64_t kAllOnes = ~uint64_t{0};
// While requests come without a pause, descriptors are looked at after this many of them: often
// enough that a doorbell does not wait long, rarely enough that the system call costs little.
constexpr uint32_t kRequestsPerCheck = 64;
// What a call of DoWork() counts as: it may take as long as many requests.
constexpr uint32_t kRequestsPerWork = kRequestsPerCheck / 4;
// A request that is missing is being sent, which usually takes a moment. But its sender may be
// stopped, as in a debugger: then this thread sleeps instead of yielding.
constexpr uint32_t kMaxYields = 1000;
constexpr absl::Duration kSenderNap = absl::Milliseconds(1);
// How long the guest waits for DMA that the kernel has in hand when it takes bus mastering away. A
// disk that does not answer cannot be made to end it.
constexpr absl::Duration kDmaTimeout = absl::Milliseconds(500);
// When the pages of the start-up go at the latest, though the device is never idle for long.
constexpr absl::Duration kReleaseTime = absl::Seconds(10);

FunctionState ToFunctionState(uint64_t bits) {
  return {.bus_master = (bits & kFunctionStateBusMaster) != 0,
          .msix_enabled = (bits & kFunctionStateMsixEnabled) != 0,
          .intx_disabled = (bits & kFunctionStateIntxDisabled) != 0};
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceHost>> DeviceHost::Create(const v1::DeviceInfo& info,
                                                               Attachment attachment,
                                                               ControlMailbox& control) {
  ASSIGN_OR_RETURN(GuestMemory memory, MapGuestMemory(attachment.guest_memory));
  channel::ServerDescriptors descriptors = {
      .request_memory = std::move(attachment.request_memory),
      .response_memory = std::move(attachment.response_memory),
      .request_event = std::move(attachment.request_event),
      .completion_events = std::move(attachment.completion_events)};
  const channel::ServerParameters parameters = {
      .slots = attachment.channel.slots(),
      .waiters = attachment.channel.waiters(),
      .max_poll = absl::Nanoseconds(attachment.channel.max_poll_ns()),
      .generation = attachment.generation};
  ASSIGN_OR_RETURN(auto channel,
                   channel::ChannelServer::Create(std::move(descriptors), parameters));
  std::unique_ptr<DurableState> durable;
  if (attachment.durable_state.ok()) {
    ASSIGN_OR_RETURN(
        durable, DurableState::Open(info, attachment.durable_state.get(), channel->processed()));
  }
  ASSIGN_OR_RETURN(auto poller, Poller::Create());
  std::unique_ptr<DeviceHost> host(new DeviceHost(info, std::move(attachment), std::move(memory),
                                                  std::move(channel), std::move(durable),
                                                  std::move(poller), control));
  RETURN_IF_ERROR(host->RegisterEvents());
  return host;
}

DeviceHost::DeviceHost(const v1::DeviceInfo& info, Attachment attachment, GuestMemory memory,
                       std::unique_ptr<channel::ChannelServer> channel,
                       std::unique_ptr<DurableState> durable, std::unique_ptr<Poller> poller,
                       ControlMailbox& control)
    : regions_(info),
      is_pci_(info.has_pci()),
      lends_descriptors_(info.lends_descriptors()),
      ring_slots_(attachment.channel.slots()),
      memory_(std::move(memory)),
      mapped_pages_(memory_, HaveHugePages(attachment.guest_memory)),
      interrupts_({.msix_vectors = std::move(attachment.msix_vectors),
                   .intx = std::move(attachment.intx),
                   .intx_resample = std::move(attachment.intx_resample)}),
      resources_(std::move(attachment.resources)),
      seccomp_filter_(std::move(attachment.seccomp_filter)),
      doorbells_(std::move(attachment.doorbells)),
      channel_(std::move(channel)),
      trace_(channel_->trace()),
      durable_(std::move(durable)),
      poller_(std::move(poller)),
      control_(control),
      function_state_(attachment.function_state),
      attached_function_state_(attachment.function_state),
      rung_(doorbells_.size()),
      lent_(doorbells_.size()),
      release_latest_(SteadyNow() + kReleaseTime) {
  interrupts_.SetTrace(trace_);
  if (!lends_descriptors_) return;
  memory_files_ = std::move(attachment.guest_memory);
  for (const Attachment::GuestMemoryRange& range : memory_files_) {
    memory_blocks_.push_back({.address = range.start,
                              .size_bytes = range.size_bytes,
                              .offset_in_file = range.offset,
                              .fd = range.memfd.get()});
  }
  durable_file_ = std::move(attachment.durable_state);
  if (!durable_file_.ok()) return;
  durable_memory_file_ = {.fd = durable_file_.get(),
                          .offset = durable::DurableMemoryOffset(info.saved_state_bytes())};
}

absl::Status DeviceHost::RegisterEvents() {
  for (size_t i = 0; i < doorbells_.size(); ++i) {
    // Edge-triggered: no read that resets the count, so one system call less a doorbell.
    RETURN_IF_ERROR(poller_->Add(doorbells_[i].fd(), Poller::Trigger::kEdge, [this, i] {
      rung_[i] = true;
      any_rung_ = true;
      CRASH_POINT("after_doorbell_read");
    }));
  }
  if (interrupts_.resample_fd() >= 0) {
    RETURN_IF_ERROR(poller_->Add(interrupts_.resample_fd(), Poller::Trigger::kLevel,
                                 [this] { interrupts_.OnResample(); }));
  }
  RETURN_IF_ERROR(poller_->Add(control_.event_fd(), Poller::Trigger::kLevel, [this] {
    control_.Acknowledge();
    commands_wait_ = true;
  }));
  return poller_->Add(channel_->event_fd(), Poller::Trigger::kLevel, [this] {
    // AfterSleep() empties it. A wake-up that came too late for the last sleep is emptied here,
    // or it would look like work for ever.
    if (!asleep_) channel::DrainWakePipe(channel_->event_fd());
  });
}

absl::Status DeviceHost::Start(DeviceModel& model) {
  model_ = &model;
  std::optional<DurableState::Loaded> left;
  if (durable_ != nullptr) left = durable_->TakeLoaded();
  if (left.has_value() && left->reset_ordered) {
    std::fill(durable_->memory().begin(), durable_->memory().end(), 0);
  }
  predecessor_owed_failure_ =
      durable_ != nullptr && durable_->owes_failure() && (!left.has_value() || left->reset_ordered);
  RETURN_IF_ERROR(model.Start(*this));
  if (!resources_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("this device has no use for the resource '", resources_.front().name, "'"));
  }
  // From here on the model handles what the guest, or an earlier process, has written.
  RETURN_IF_ERROR(InstallSeccompFilter(seccomp_filter_));
  return RestoreFrom(left);
}

absl::Status DeviceHost::RestoreFrom(const std::optional<DurableState::Loaded>& left) {
  if (left.has_value()) {
    // The function state of the attach request counts, not the saved one: the process that saved it
    // may have been compromised, and a wrong one would lose every interrupt. But requests in the
    // ring were sent under the saved one: bus mastering that the guest has allowed since then is
    // allowed once they are applied, see ReleaseModel(). What it has forbidden since then is
    // forbidden at once.
    const uint64_t master = function_state_ & left->record.function_state & kFunctionStateBusMaster;
    function_state_ = master | (function_state_ & ~kFunctionStateBusMaster);
    state_changed_ |= function_state_ != left->record.function_state;
    model_is_held_ = true;
    model_->SetServing(false);
  }
  // The lines first: they need the state when the model raises interrupts in Restore().
  if (is_pci_) interrupts_.OnFunctionState(ToFunctionState(function_state_));
  CRASH_POINT("attach_before_restore");
  if (left.has_value() && !left->reset_ordered) RETURN_IF_ERROR(model_->Restore(left->bytes));
  CRASH_POINT("attach_after_restore");
  if (is_pci_ && (left.has_value() || function_state_ != 0)) ForwardFunctionState();
  interrupts_.DropStaleEvents();
  if (left.has_value() && left->record.ticket > channel_->processed()) {
    // Applied and saved, but not completed: only the answer is missing.
    Request request;
    if (!channel_->TryPeek(request) || request.ticket != left->record.ticket) {
      return absl::DataLossError(absl::StrCat("the saved state includes request ",
                                              left->record.ticket, ", which was never sent"));
    }
    Complete(request, left->record.answer);
  }
  if (left.has_value() && left->reset_ordered) state_changed_ = true;  // the reset is done by now
  SaveIfChanged();
  // Resets and ends of bus mastering: the work that they waited for has ended with the predecessor.
  for (const Request& request : channel_->Deferred()) channel_->AnswerDeferred(request, 0);
  return absl::OkStatus();
}

void DeviceHost::ForwardFunctionState() {
  const FunctionState state = ToFunctionState(function_state_);
  // The lines first: they need the new state when the model signals in answer.
  interrupts_.OnFunctionState(state);
  model_->OnFunctionState(state);
}

absl::Status DeviceHost::Run(int attach_socket) {
  RETURN_IF_ERROR(poller_->Add(attach_socket, Poller::Trigger::kLevel,
                               [=, this] { OnAttachSocket(attach_socket); }));
  RingAllDoorbells();
  while (!end_.has_value()) {
    AnswerWhenDmaHasEnded();
    if (commands_wait_) {
      TakeCommands();
    } else if (mode_ == Mode::kServing) {
      ServeOnce();
    } else {
      AwaitRest();
    }
  }
  poller_->Remove(attach_socket);
  if (mode_ == Mode::kServing) {
    // The vmm ends this process: what the guest has sent still takes effect.
    ServeRequests(ring_slots_);
    if (model_is_held_) ReleaseModel();
    ServeDoorbells();
  }
  return *std::move(end_);
}

void DeviceHost::ReleaseModel() {
  if (!ServeRequestsSentSoFar()) return;
  model_is_held_ = false;
  if (is_pci_ && attached_function_state_.value_or(function_state_) != function_state_) {
    function_state_ = *attached_function_state_;
    state_changed_ = true;
    ForwardFunctionState();
  }
  model_->SetServing(true);
  AfterCallback();
}

void DeviceHost::ServeOnce() {
  ServeRequests(ring_slots_);
  if (model_is_held_) ReleaseModel();
  ServeDoorbells();
  if (!any_rung_ && !model_is_held_ && command_ != nullptr) ExecuteCommand();
  if (mode_ != Mode::kServing || commands_wait_) return;
  if (any_rung_ || model_has_work_ || command_ != nullptr || model_is_held_) {
    // Another vCPU's thread has a ticket but has not written its request yet: let it run.
    if (++yields_ > kMaxYields) {
      poller_->Wait(kSenderNap, [this] { AfterCallback(); });
    } else {
      CheckEvents();
      sched_yield();
    }
    return;
  }
  yields_ = 0;
  const auto in_memory = [this] { return model_has_work_ = model_->HasWork(); };
  if (requests_since_check_ >= kRequestsPerCheck) {
    // The guest does not ring for work in memory: without this look a flood of requests hides it.
    const bool had_events = CheckEvents();
    if (in_memory() || had_events) return;
  }
  if (channel_->PollForWork(in_memory, [this] { return CheckEvents(); })) return;
  model_has_work_ = model_->PrepareToSleep();
  AfterCallback();
  if (!model_has_work_) Sleep();
}

uint32_t DeviceHost::ServeRequests(uint32_t limit) {
  Request request;
  uint32_t served = 0;
  while (served < limit && channel_->TryPeek(request)) {
    CRASH_POINT("after_fetch");
    ++served;
    ++counters_.requests[static_cast<size_t>(request.operation)];
    if (request.operation == Operation::kReset) {
      BeginReset(&request);
      if (mode_ != Mode::kServing) break;
      continue;
    }
    const uint64_t answer = Apply(request);
    CRASH_POINT("after_apply");
    if (state_changed_) Save(request.ticket, answer);
    CRASH_POINT("after_save_before_complete");
    if (WaitsForDma(request)) {
      if (waiting_for_dma_.empty()) dma_deadline_ = SteadyNow() + kDmaTimeout;
      channel_->Defer(request);
      waiting_for_dma_.push_back(request);
    } else {
      Complete(request, answer);
    }
    OnLookedForRequests();
  }
  OnLookedForRequests();
  requests_since_check_ += served;
  return served;
}

bool DeviceHost::WaitsForDma(const Request& request) const {
  return request.operation == Operation::kSetFunctionState && is_pci_ &&
         (request.data & kFunctionStateBusMaster) == 0 && model_->dma_in_flight();
}

void DeviceHost::AnswerWhenDmaHasEnded() {
  if (waiting_for_dma_.empty()) return;
  const bool is_master = (function_state_ & kFunctionStateBusMaster) != 0;
  if (!is_master && model_->dma_in_flight() && SteadyNow() < dma_deadline_) return;
  for (const Request& request : waiting_for_dma_) channel_->AnswerDeferred(request, 0);
  waiting_for_dma_.clear();
}

absl::Duration DeviceHost::SleepLimit(absl::Duration otherwise) const {
  if (waiting_for_dma_.empty()) return otherwise;
  return std::min(otherwise, std::max(dma_deadline_ - SteadyNow(), absl::ZeroDuration()));
}

uint64_t DeviceHost::Apply(const Request& request) {
  switch (request.operation) {
    case Operation::kRead:
      if (!regions_.Contains(request.region, request.offset, request.size_bytes)) return kAllOnes;
      return model_->Read(request.region, request.offset, request.size_bytes) &
             AccessMask(request.size_bytes);
    case Operation::kPostedWrite:
    case Operation::kWrite:
      if (regions_.Contains(request.region, request.offset, request.size_bytes)) {
        model_->Write(request.region, request.offset, request.size_bytes,
                      request.data & AccessMask(request.size_bytes));
      }
      return 0;
    case Operation::kSetFunctionState:
      if (!is_pci_) return 0;
      attached_function_state_.reset();
      if (request.data != function_state_) state_changed_ = true;
      function_state_ = request.data;
      ForwardFunctionState();
      return 0;
    case Operation::kReset:
      break;  // see BeginReset()
  }
  return kAllOnes;
}

void DeviceHost::Complete(const Request& request, uint64_t answer) {
  if (request.operation == Operation::kPostedWrite) {
    channel_->Retire(request);
  } else {
    channel_->Complete(request, answer);
  }
}

bool DeviceHost::ServeRequestsSentSoFar() {
  // A posted write that the guest made before it rang the doorbell is in the ring by now, behind
  // less than a ring full of requests.
  uint32_t left = ring_slots_;
  while (left > 0 && mode_ == Mode::kServing) {
    left -= ServeRequests(left);
    // It may lie behind a gap: a request that another vCPU's thread has a ticket for, but has
    // not written yet.
    if (!channel_->HasLaterRequest()) break;
    Request next;
    if (!channel_->TryPeek(next)) return false;
  }
  return mode_ == Mode::kServing;
}

void DeviceHost::ServeDoorbells() {
  if (!(any_rung_ || model_has_work_) || model_is_held_ || !ServeRequestsSentSoFar()) return;
  if (std::exchange(model_has_work_, false)) {
    requests_since_check_ += kRequestsPerWork;
    model_->DoWork();
    AfterCallback();
  }
  any_rung_ = false;
  for (size_t i = 0; i < rung_.size(); ++i) {
    if (!rung_[i]) continue;
    rung_[i] = false;
    ++counters_.doorbells;
    if (trace_.on()) trace_.Write(channel::TraceRecord::kDoorbell, static_cast<uint32_t>(i));
    model_->OnDoorbell(static_cast<uint32_t>(i));
    CRASH_POINT("after_doorbell_served");
    AfterCallback();
  }
}

void DeviceHost::RingAllDoorbells() {
  rung_ = lent_;
  rung_.flip();
  any_rung_ = !doorbells_.empty();
}

int DeviceHost::LendDoorbell(uint32_t index) {
  if (!lends_descriptors_ || index >= doorbells_.size()) return -1;
  lent_[index] = true;
  rung_[index] = false;
  poller_->SetPaused(doorbells_[index].fd(), true);
  // A full counter, which an earlier borrower may have left, would block.
  if (!doorbells_[index].IsPending()) doorbells_[index].Signal();
  return doorbells_[index].fd();
}

void DeviceHost::TakeBackDoorbell(uint32_t index) {
  if (index >= doorbells_.size() || !lent_[index]) return;
  lent_[index] = false;
  rung_[index] = any_rung_ = true;
  poller_->SetPaused(doorbells_[index].fd(), false);
}

bool DeviceHost::CheckEvents() {
  requests_since_check_ = 0;
  return poller_->Wait(absl::ZeroDuration(), [this] { AfterCallback(); });
}

void DeviceHost::AfterCallback() {
  SaveIfChanged();
  // Else the next look for requests answers the heartbeat: two callbacks are not one long call.
  if (looked_for_requests_) KeepAlive();
}

void DeviceHost::OnLookedForRequests() {
  looked_for_requests_ = true;
  KeepAlive();
}

void DeviceHost::Sleep() {
  if (!channel_->PrepareToSleep()) return;
  asleep_ = true;
  requests_since_check_ = 0;
  const absl::Duration limit = SleepLimit(released_ ? absl::InfiniteDuration() : kIdleTime);
  const bool had_events = poller_->Wait(limit, [this] { AfterCallback(); });
  asleep_ = false;
  channel_->AfterSleep();
  if (released_ || (had_events && SteadyNow() < release_latest_)) return;
  // Not at once: a guest that waits for this successor would wait for this, too.
  ReleaseStartupPages();
  released_ = true;
}

void DeviceHost::SaveIfChanged() {
  // A reset that is under way is saved as such, and nothing else.
  if (state_changed_ && mode_ != Mode::kResetting) Save(channel_->processed(), /*answer=*/0);
}

void DeviceHost::Save(uint64_t ticket, uint64_t answer) {
  state_changed_ = false;
  if (durable_ == nullptr) return;
  durable_->Save({.ticket = ticket, .answer = answer, .function_state = function_state_},
                 [this](absl::Span<uint8_t> out) { return model_->Save(out); });
  durable_->SetOwesFailure(owes_failure_);
}

void DeviceHost::OnAttachSocket(int attach_socket) {
  const absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(attach_socket, kMaxAttachRequestBytes, absl::ZeroDuration());
  if (message.ok()) {
    end_ = absl::InvalidArgumentError("the vmm sent a message after the attach request");
  } else {
    end_ = absl::IsUnavailable(message.status()) ? absl::OkStatus() : message.status();
  }
}

void DeviceHost::OweWritebackFailure(bool owed) {
  owes_failure_ = owed;
  // That it is owed no more is saved with the model's state, after the guest has seen the failure.
  if (owed && durable_ != nullptr) durable_->SetOwesFailure(true);
}

bool DeviceHost::writeback_failed(absl::string_view name) const {
  if (predecessor_owed_failure_) return true;
  return std::any_of(resources_.begin(), resources_.end(), [name](const Attachment::Resource& r) {
    return r.name == name && r.writeback_failed;
  });
}

absl::StatusOr<UniqueFd> DeviceHost::TakeResource(absl::string_view name) {
  const auto found = std::find_if(resources_.begin(), resources_.end(),
                                  [name](const Attachment::Resource& r) { return r.name == name; });
  if (found == resources_.end()) {
    return absl::NotFoundError(absl::StrCat("the resource '", name, "' was not given"));
  }
  UniqueFd fd = std::move(found->fd);
  resources_.erase(found);
  return fd;
}

absl::Status DeviceHost::Watch(int fd, absl::AnyInvocable<void()> on_readable) {
  return poller_->Add(fd, Poller::Trigger::kLevel, std::move(on_readable));
}

void DeviceHost::Unwatch(int fd) { poller_->Remove(fd); }

absl::Span<uint8_t> DeviceHost::durable_memory() {
  return durable_ != nullptr ? durable_->memory() : absl::Span<uint8_t>();
}

void DeviceHost::KeepAlive() {
  if (control_.heartbeat_wanted()) control_.Beat();
  if (!channel_->heartbeat_wanted()) return;
  channel_->AnswerHeartbeat(/*in_long_call=*/!looked_for_requests_);
  looked_for_requests_ = false;
}

}  // namespace bulkhead::devices
