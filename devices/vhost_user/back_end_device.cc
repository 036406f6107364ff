#include "devices/vhost_user/back_end_device.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr char kResource[] = "back_end";

// How long Start() waits for a back end, which may take its time to open an image. The vmm waits
// longer (vmm/supervisor).
constexpr absl::Duration kFirstGreeting = absl::Seconds(30);
// How often a back end that has requests is asked whether it is there; and how long it counts as
// there without an answer.
constexpr absl::Duration kPingInterval = absl::Seconds(1);
// When it says what it waits for.
constexpr absl::Duration kSlowGreeting = absl::Seconds(3);
// How long guest memory counts as used by a back end that is no longer connected, if nobody knows
// whether it lives.
constexpr absl::Duration kStillRuns = absl::Seconds(5);

}  // namespace

void NextStore() { std::atomic_signal_fence(std::memory_order_seq_cst); }

BackEndDevice::BackEndDevice(DeviceKind kind)
    : kind_(std::move(kind)),
      link_({.queues = kind_.queues,
             .config_bytes =
                 kind_.config_from_back_end ? static_cast<uint32_t>(kind_.config.size()) : 0},
            this),
      config_(kind_.config),
      greeting_limit_(kFirstGreeting) {}

BackEndDevice::~BackEndDevice() {
  if (still_runs_process_.ok()) host_->Unwatch(still_runs_process_.get());
}

virtio::VirtioIdentity BackEndDevice::CommonIdentity() const {
  return {.model = kind_.name,
          .type = kind_.type,
          .pci_class = kind_.pci_class,
          .config_size = static_cast<uint32_t>(kind_.config.size()),
          .queue_sizes = std::vector<uint16_t>(kind_.queues, kind_.queue_size),
          .required_resources = {kResource},
          .durable_memory_bytes = kRecordBytes,
          .lends_memory = true};
}

absl::Status BackEndDevice::Start(virtio::VirtioServices& services) {
  services_ = &services;
  host_ = &services.host();
  const absl::Span<uint8_t> durable = services.durable_memory();
  record_ = durable.empty() ? &own_record_ : reinterpret_cast<DeviceRecord*>(durable.data());
  RETURN_IF_ERROR(still_runs_timer_.Start(*host_, [this] { OnStillRunsLimit(); }));
  RETURN_IF_ERROR(ping_timer_.Start(*host_, [this] { OnPingTime(); }));
  const bool has_predecessor = ReadRecord();
  PeerIdentity earlier;
  if (has_predecessor && IsAnyQueueRunning(earlier)) AwaitEnd(earlier, UniqueFd());
  RETURN_IF_ERROR(link_.Start(*host_, kResource, earlier));
  return has_predecessor ? absl::OkStatus() : AwaitFirstBackEnd();
}

bool BackEndDevice::IsAnyQueueRunning(PeerIdentity& peer) const {
  for (uint32_t i = 0; i < kind_.queues; ++i) {
    const QueueRecord queue = record_->queues[i];  // a copy: a back end may write there
    if (queue.place != QueuePlace::kRunning) continue;
    peer = {.pid = queue.peer_pid, .inode = queue.peer_inode};
    return true;
  }
  return false;
}

absl::Status BackEndDevice::AwaitFirstBackEnd() {
  const absl::Duration quiet = std::min(kSlowGreeting, greeting_limit_);
  if (link_.AwaitGreeting(quiet)) return absl::OkStatus();
  if (greeting_limit_ > quiet) {
    LogWarning(absl::StrCat("the back end does not serve yet, and is waited for until ",
                            absl::FormatDuration(greeting_limit_),
                            " have passed: ", link_.obstacle()));
    if (link_.AwaitGreeting(greeting_limit_ - quiet)) return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the back end does not serve: ", link_.obstacle()));
}

void BackEndDevice::OnFeatures(uint64_t features) {
  driver_features_ = features;
  if (features != 0) {
    if (record_->magic != kRecordMagic) WriteRecord();
    Sync();
    TellWhetherAwaited();
    return;
  }
  // A reset: the queues begin anew.
  Session* const session = link_.session();
  if (std::exchange(set_up_, SetUpState::kNone) != SetUpState::kNone && session != nullptr) {
    StopServing(*session);
    session->ResetDevice();
    link_.Flush();
    CRASH_POINT("back_end_reset");
  }
  for (QueueRecord& queue : record_->queues) queue = {};
  TellWhetherAwaited();
}

void BackEndDevice::ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const {
  memcpy(out.data(), &config_[offset], out.size());
}

// ---- The record

void BackEndDevice::TakeOffer(uint64_t features, absl::Span<const uint8_t> config) {
  offered_features_ = features;
  if (config.size() != config_.size()) return;
  config_.assign(config.begin(), config.end());
  if (kind_.queue_count_offset == 0) return;
  const uint16_t queues = static_cast<uint16_t>(kind_.queues);
  memcpy(&config_[kind_.queue_count_offset], &queues, sizeof(queues));
}

void BackEndDevice::WriteRecord() {
  record_->magic = 0;
  CRASH_POINT("record_begun");
  NextStore();
  record_->features = offered_features_;
  record_->config_bytes = static_cast<uint32_t>(config_.size());
  memcpy(record_->config, config_.data(), config_.size());
  CRASH_POINT("record_written");
  NextStore();
  record_->magic = kRecordMagic;
}

bool BackEndDevice::ReadRecord() {
  const uint64_t features = record_->features;
  if (record_->magic != kRecordMagic || record_->config_bytes != config_.size() ||
      (features & virtio::kFeatureVersion1) == 0) {
    return false;
  }
  TakeOffer(features, absl::MakeSpan(record_->config, config_.size()));
  return true;
}

// ---- The connection

void BackEndDevice::TellWhetherAwaited() {
  bool wanted = false;
  for (uint32_t i = 0; i < kind_.queues; ++i) wanted |= services_->QueueToServe(i) != nullptr;
  host_->SetAwaitsBackEnd(wanted && (set_up_ != SetUpState::kDone || silent_));
}

// A request may take its time: a back end that answers is there. One that is stopped, or waits for
// what it serves from (a network file system), does not.
void BackEndDevice::OnPingTime() {
  Session* const session = link_.session();
  if (session == nullptr || set_up_ != SetUpState::kDone) return;
  ping_timer_.Set(kPingInterval);
  if (session->awaits_ping()) {
    if (!std::exchange(silent_, true)) LogWarning("the back end does not answer: it is waited for");
    TellWhetherAwaited();
  } else if (has_requests() && !session->awaits_reply()) {
    session->Ping([this] {
      if (std::exchange(silent_, false)) LogInfo("the back end answers again");
      TellWhetherAwaited();
    });
    link_.Flush();
  }
}

void BackEndDevice::AwaitSetUp(Session& session) {
  set_up_ = SetUpState::kUnderWay;
  session.Then([this, number = ++set_ups_] {
    if (set_up_ != SetUpState::kUnderWay || number != set_ups_) return;
    set_up_ = SetUpState::kDone;
    ping_timer_.Set(kPingInterval);
    Sync();
    TellWhetherAwaited();
    services_->QueuesStopped();
  });
}

void BackEndDevice::OnGreeted() {
  CRASH_POINT("back_end_greeted");
  const Offer& offer = link_.session()->offer();
  if (kind_.config_from_back_end && offer.config.empty()) {
    return link_.Refuse("it has no configuration (protocol feature CONFIG) to show to the guest");
  }
  // One more for rings of this device's own.
  const size_t parts = host_->memory_blocks().size() + 1;
  if (!offer.has(kProtocolMemorySlots) && parts > kMaxTableRegions) {
    return link_.Refuse(
        absl::StrCat("it takes ", kMaxTableRegions, " parts of memory, not ", parts));
  }
  if (const uint64_t missing = needed_features() & ~offer.features; missing != 0) {
    return link_.Refuse(
        absl::StrFormat("it lacks the features 0x%x, which the guest uses", missing));
  }
  if (offered_features_ == 0) {
    TakeOffer(offer.features, offer.config);
    WriteRecord();
  } else {
    const std::vector<uint8_t> before = config_;
    TakeOffer(offered_features_, offer.config);
    if (config_ != before) {
      WriteRecord();
      services_->ConfigChanged();
    }
  }
  if (still_runs_process_.ok() && link_.peer() != still_runs_) {
    LogWarning(
        absl::StrCat("the back end is another process now: it gets the guest's memory once "
                     "process ",
                     still_runs_.pid, " has ended, which still has it"));
    return;
  }
  SetStillRunsNoMore();
}

void BackEndDevice::OnLost(bool ended) {
  CRASH_POINT("back_end_lost");
  const bool used_memory = ForgetConnection();
  set_up_ = SetUpState::kNone;
  silent_ = false;
  TellWhetherAwaited();
  // A connection over which nothing was served says nothing about the one before it: a back end
  // that is still busy with that one refuses another.
  if (!used_memory) {
    services_->QueuesStopped();
  } else if (ended) {
    SetStillRunsNoMore();
  } else {
    AwaitEnd(link_.peer(), link_.TakePeerProcess());
  }
}

void BackEndDevice::OnNobodyListens() {
  // Who has closed its socket may live, and have the memory.
  if (!still_runs_process_.ok()) SetStillRunsNoMore();
}

void BackEndDevice::OnPeerFound(UniqueFd process) {
  if (!may_still_run_ || still_runs_process_.ok()) return;
  if (process.ok()) {
    AwaitEnd(still_runs_, std::move(process));
  } else {
    SetStillRunsNoMore();
  }
}

void BackEndDevice::AwaitEnd(const PeerIdentity& peer, UniqueFd process) {
  may_still_run_ = true;
  still_runs_ = peer;
  still_runs_timer_.Set(kStillRuns);
  if (!process.ok()) return;
  if (const absl::Status watched = host_->Watch(process.get(), [this] { SetStillRunsNoMore(); });
      !watched.ok()) {
    LogWarning(absl::StrCat("watching process ", peer.pid, ": ", watched.message()));
    return;
  }
  still_runs_process_ = std::move(process);
}

void BackEndDevice::SetStillRunsNoMore() {
  may_still_run_ = false;
  still_runs_timer_.Set(absl::ZeroDuration());
  if (still_runs_process_.ok()) {
    host_->Unwatch(still_runs_process_.get());
    still_runs_process_.reset();
  }
  Sync();
  services_->QueuesStopped();
}

void BackEndDevice::OnStillRunsLimit() {
  if (still_runs_process_.ok()) {
    LogWarning(absl::StrCat("process ", still_runs_.pid,
                            ", a back end that was lost, lives and may use guest memory: until it "
                            "has ended or answered, requests wait, and resets"));
    return;
  }
  LogWarning("a back end that was lost has not ended its work: it is waited for no longer");
  SetStillRunsNoMore();
}

void BackEndDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  const bool connected = link_.obstacle().empty();
  AddGauge(metrics, "back_end_connected", "1: the back end has answered", connected);
  AddGauge(metrics, "back_end_silent", "1: it has requests, and does not answer", silent_);
  AddGauge(metrics, "queues_served", "Queues that the back end serves", queues_served());
  AddCounter(metrics, "back_end_connections_total", "Connections to a back end",
             link_.connections());
  AddCounter(metrics, "back_end_losses_total", "Connections that were lost", link_.losses());
}

}  // namespace bulkhead::devices::vhost_user
