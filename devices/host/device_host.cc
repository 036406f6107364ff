#include "devices/host/device_host.h"

#include <sched.h>

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/access_mask.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/wake_pipe.h"
#include "proto/contract.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;
using Request = channel::ChannelServer::Request;

constexpr uint64_t kAllOnes = ~uint64_t{0};
// While requests come without a pause, descriptors are looked at after this many of them: often
// enough that a doorbell does not wait long, rarely enough that the system call costs little.
constexpr uint32_t kRequestsPerCheck = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceHost>> DeviceHost::Create(const v1::PciInfo& info,
                                                               Attachment attachment) {
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
  ASSIGN_OR_RETURN(auto poller, Poller::Create());
  std::unique_ptr<DeviceHost> host(new DeviceHost(info, std::move(attachment), std::move(memory),
                                                  std::move(channel), std::move(poller)));
  RETURN_IF_ERROR(host->RegisterEvents());
  return host;
}

DeviceHost::DeviceHost(const v1::PciInfo& info, Attachment attachment, GuestMemory memory,
                       std::unique_ptr<channel::ChannelServer> channel,
                       std::unique_ptr<Poller> poller)
    : regions_(info),
      is_pci_(info.has_pci()),
      ring_slots_(attachment.channel.slots()),
      memory_(std::move(memory)),
      interrupts_({.msix_vectors = std::move(attachment.msix_vectors),
                   .intx = std::move(attachment.intx),
                   .intx_resample = std::move(attachment.intx_resample)}),
      resources_(std::move(attachment.resources)),
      doorbells_(std::move(attachment.doorbells)),
      channel_(std::move(channel)),
      poller_(std::move(poller)),
      rung_(doorbells_.size()) {}

absl::Status DeviceHost::RegisterEvents() {
  for (size_t i = 0; i < doorbells_.size(); ++i) {
    // Edge-triggered: no read that resets the count, so one system call less a doorbell.
    RETURN_IF_ERROR(poller_->Add(doorbells_[i].fd(), Poller::Trigger::kEdge, [this, i] {
      rung_[i] = true;
      any_rung_ = true;
    }));
  }
  if (interrupts_.resample_fd() >= 0) {
    RETURN_IF_ERROR(poller_->Add(interrupts_.resample_fd(), Poller::Trigger::kLevel,
                                 [this] { interrupts_.OnResample(); }));
  }
  return poller_->Add(channel_->event_fd(), Poller::Trigger::kLevel, [this] {
    // AfterSleep() empties it. A wake-up that came too late for the last sleep is emptied here,
    // or it would look like work for ever.
    if (!asleep_) channel::DrainWakePipe(channel_->event_fd());
  });
}

absl::Status DeviceHost::Start(DeviceModel& model) {
  model_ = &model;
  RETURN_IF_ERROR(model.Start(*this));
  if (!resources_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("this device has no use for the resource '", resources_.front().name, "'"));
  }
  return absl::OkStatus();
}

absl::Status DeviceHost::Run(int attach_socket) {
  std::optional<absl::Status> end;
  RETURN_IF_ERROR(poller_->Add(attach_socket, Poller::Trigger::kLevel,
                               [&] { end = OnAttachSocket(attach_socket); }));
  rung_.assign(doorbells_.size(), true);
  any_rung_ = !doorbells_.empty();
  while (!end.has_value()) {
    ServeRequests(ring_slots_);
    ServeDoorbells();
    if (any_rung_) {
      // A request is missing that another vCPU's thread is just sending: let it run.
      CheckEvents();
      sched_yield();
      continue;
    }
    bool had_events = requests_since_check_ >= kRequestsPerCheck && CheckEvents();
    const auto other_work = [&] { return had_events = CheckEvents(); };
    if (had_events || channel_->PollForRequest(other_work) || had_events) continue;
    Sleep();
  }
  poller_->Remove(attach_socket);
  // The vmm asked this process to end: what the guest has sent takes effect all the same.
  ServeRequests(ring_slots_);
  ServeDoorbells();
  return *std::move(end);
}

uint32_t DeviceHost::ServeRequests(uint32_t limit) {
  Request request;
  uint32_t served = 0;
  for (; served < limit && channel_->TryPeek(request); ++served) {
    const uint64_t answer = Apply(request);
    if (request.operation == Operation::kPostedWrite) {
      channel_->Retire(request);
    } else {
      channel_->Complete(request, answer);
    }
  }
  requests_since_check_ += served;
  return served;
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
    case Operation::kSetFunctionState: {
      if (!is_pci_) return 0;
      const FunctionState state = {
          .bus_master = (request.data & kFunctionStateBusMaster) != 0,
          .msix_enabled = (request.data & kFunctionStateMsixEnabled) != 0,
          .intx_disabled = (request.data & kFunctionStateIntxDisabled) != 0};
      // The lines first: what the model signals in answer already goes by the new state.
      interrupts_.OnFunctionState(state);
      model_->OnFunctionState(state);
      return 0;
    }
    case Operation::kReset:
      model_->Reset();
      return 0;
  }
  return kAllOnes;
}

bool DeviceHost::ServeRequestsBeforeDoorbell() {
  // A posted write that the guest made before it rang is in the ring by now, and no more than a
  // ring full of requests can be before it.
  uint32_t left = ring_slots_;
  while (left > 0) {
    left -= ServeRequests(left);
    // It may lie behind a gap: a request that another vCPU's thread has a ticket for, but has
    // not written yet.
    if (!channel_->HasLaterRequest()) return true;
    Request next;
    if (!channel_->TryPeek(next)) return false;
  }
  return true;
}

void DeviceHost::ServeDoorbells() {
  if (!any_rung_ || !ServeRequestsBeforeDoorbell()) return;
  any_rung_ = false;
  for (size_t i = 0; i < rung_.size(); ++i) {
    if (!rung_[i]) continue;
    rung_[i] = false;
    model_->OnDoorbell(static_cast<uint32_t>(i));
  }
}

bool DeviceHost::CheckEvents() {
  requests_since_check_ = 0;
  return poller_->Wait(absl::ZeroDuration());
}

void DeviceHost::Sleep() {
  if (!channel_->PrepareToSleep()) return;
  asleep_ = true;
  requests_since_check_ = 0;
  poller_->Wait(absl::InfiniteDuration());
  asleep_ = false;
  channel_->AfterSleep();
}

absl::Status DeviceHost::OnAttachSocket(int attach_socket) {
  const absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(attach_socket, kMaxAttachRequestBytes, absl::Now());
  if (absl::IsUnavailable(message.status())) return absl::OkStatus();
  if (!message.ok()) return message.status();
  return absl::InvalidArgumentError("the vmm sent a message after the attach request");
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

}  // namespace bulkhead::devices
