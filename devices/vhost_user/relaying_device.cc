#include "devices/vhost_user/relaying_device.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {
namespace {

// Where the back end sees the rings: beyond all guest memory.
constexpr GuestAddress kRingsAddress = GuestAddress{1} << 56;
constexpr size_t kPageBytes = 4096;

}  // namespace

RelayingDevice::~RelayingDevice() {
  for (const Queue& queue : queues_) {
    if (queue.call != nullptr) host().Unwatch(queue.call->fd());
  }
}

virtio::VirtioIdentity RelayingDevice::Identify() const {
  virtio::VirtioIdentity identity = CommonIdentity();
  identity.durable_memory_bytes += static_cast<uint32_t>(kPageBytes + rings_bytes());
  return identity;
}

absl::Status RelayingDevice::Start(virtio::VirtioServices& services) {
  DeviceServices& host = services.host();
  storage_.resize(max_buffers());
  // Where another process can map them.
  const absl::Span<uint8_t> all = host.durable_memory();
  const MemoryFilePlace place = host.durable_memory_file();
  if (place.fd < 0) return absl::FailedPreconditionError("there is no durable memory for rings");
  const size_t used =
      static_cast<size_t>(services.durable_memory().data() - all.data()) + kRecordBytes;
  const size_t begin = (used + kPageBytes - 1) / kPageBytes * kPageBytes;
  rings_ = {.address = kRingsAddress,
            .size_bytes = rings_bytes(),
            .offset_in_file = place.offset + begin,
            .fd = place.fd};
  const size_t ring_bytes = RelayRing::SizeBytes(kind().queue_size, max_buffers());
  queues_.resize(kind().queues);
  for (uint32_t i = 0; i < kind().queues; ++i) {
    Queue& queue = queues_[i];
    const size_t offset = i * ring_bytes;
    queue.ring = RelayRing(all.subspan(begin + offset, ring_bytes).data(), kRingsAddress + offset,
                           kind().queue_size, max_buffers());
    ASSIGN_OR_RETURN(EventFd kick, EventFd::Create());
    queue.kick = std::make_unique<EventFd>(std::move(kick));
    ASSIGN_OR_RETURN(EventFd call, EventFd::Create());
    RETURN_IF_ERROR(host.Watch(call.fd(), [this, i] {
      queues_[i].call->Drain();
      TakeResults();
    }));
    queue.call = std::make_unique<EventFd>(std::move(call));
  }
  RETURN_IF_ERROR(reset_timer_.Start(host, [this] { OnResetLimit(); }));
  recovers_ = true;
  return BackEndDevice::Start(services);
}

uint64_t RelayingDevice::needed_features() const {
  return (driver_features() & kind().features) | virtio::kFeatureVersion1 |
         virtio::kFeatureIndirectDescriptors;
}

// ---- The driver's requests

void RelayingDevice::OnChain(uint32_t index, const virtio::DescriptorChain& chain) {
  if (chain.readable.empty() && chain.writable.empty()) {
    services().Complete(index, chain.head, 0);
    return;
  }
  Queue& queue = queues_[index];
  queue.ring.Prepare(host().memory(), chain);
  if (const auto done = queue.completed_before.extract(chain.head); !done.empty()) {
    services().Complete(index, chain.head, queue.ring.Clamp(chain.head, done.mapped()));
    return;
  }
  queue.in_flight.push_back(chain.head);
  if (!runs()) return;
  queue.ring.Push(chain.head);
  queue.kick_due = true;
}

void RelayingDevice::EndBatch(uint32_t index) {
  if (!runs()) TellWhetherAwaited();
  Kick(queues_[index]);
}

void RelayingDevice::Kick(Queue& queue) {
  if (!std::exchange(queue.kick_due, false)) return;
  CRASH_POINT("before_back_end_is_rung");
  // The back end has the descriptor, too: a write could block if it is full.
  if (!queue.kick->IsPending()) queue.kick->Signal();
}

void RelayingDevice::OnQueueStopping(uint32_t index) {
  queues_[index].completed_before.clear();
  if (runs() && !queues_[index].in_flight.empty()) reset_timer_.Set(reset_limit_);
  Sync();
}

// The driver waits. Without its connection a back end is waited for no longer than kStillRuns.
void RelayingDevice::OnResetLimit() {
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    if (!runs() || !services().stopping(i) || queues_[i].in_flight.empty()) continue;
    return link().Refuse("it does not complete what a driver that resets the device has asked for");
  }
}

// ---- What the back end has done

bool RelayingDevice::HasResults() const {
  return runs() && std::any_of(queues_.begin(), queues_.end(),
                               [](const Queue& queue) { return queue.ring.has_completed(); });
}

void RelayingDevice::TakeResults() {
  if (!runs()) return;
  services().Publish();  // what comes now follows right behind the driver's used index
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    if (!queue.ring.has_completed()) continue;
    const absl::Status status = queue.ring.Pop(UsedIndex(i), [&](uint16_t head, uint32_t written) {
      queue.in_flight.erase(std::find(queue.in_flight.begin(), queue.in_flight.end(), head));
      services().Complete(i, head, written);
    });
    if (!status.ok()) {
      lied_ = true;
      link().Refuse(status.message());
    }
  }
  CRASH_POINT("before_results_are_shown");
  services().Publish();
  for (Queue& queue : queues_) queue.ring.Shown();
  if (!dma_in_flight()) services().QueuesStopped();
}

uint16_t RelayingDevice::UsedIndex(uint32_t queue) const {
  uint16_t used = 0;
  if (const virtio::QueueSetup* const setup = services().QueueToServe(queue); setup != nullptr) {
    host().memory().ReadObject(setup->device_area + virtio::kUsedIdx, used);
  }
  return used;
}

void RelayingDevice::Recover() {
  // Else the rings are those of another driver, or were being emptied.
  if (!std::exchange(recovers_, false) || record().queues[0].tracked == 0) return;
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    if (services().QueueToServe(i) == nullptr) continue;
    std::vector<RelayRing::Completion> completions = queue.ring.Recover(UsedIndex(i));
    const auto at = [&queue](const RelayRing::Completion& done) {
      return std::find(queue.in_flight.begin(), queue.in_flight.end(), done.head);
    };
    // Those that the driver sees now come first.
    std::stable_partition(completions.begin(), completions.end(),
                          [&](const auto& done) { return at(done) != queue.in_flight.end(); });
    queue.ring.NoteRecovered(completions, UsedIndex(i));
    for (const RelayRing::Completion& done : completions) {
      if (at(done) == queue.in_flight.end()) {
        queue.completed_before[done.head] = done.written;  // it comes yet
        continue;
      }
      queue.in_flight.erase(at(done));
      services().Complete(i, done.head, queue.ring.Clamp(done.head, done.written));
    }
  }
  services().Publish();
}

bool RelayingDevice::is_any_in_flight() const {
  return std::any_of(queues_.begin(), queues_.end(),
                     [](const Queue& queue) { return !queue.in_flight.empty(); });
}

bool RelayingDevice::dma_in_flight() const {
  return may_still_run() || sets_up() || (set_up() != SetUpState::kNone && is_any_in_flight());
}

// ---- The back end

void RelayingDevice::Sync() {
  if (may_still_run()) return;
  // No back end has them: it does not get what a driver that resets the device no longer waits for.
  if (set_up() != SetUpState::kDone || resubmits_) DropStopping();
  Session* const session = link().session();
  if (session == nullptr || driver_features() == 0) return;
  if (set_up() == SetUpState::kNone) {
    SetUp(*session);
  } else if (runs() && std::exchange(resubmits_, false)) {
    for (Queue& queue : queues_) {
      for (const uint16_t head : queue.in_flight) queue.ring.Push(head);
      CRASH_POINT("requests_passed_on_again");
      queue.kick_due = !queue.in_flight.empty();
      Kick(queue);
    }
  }
  link().Flush();
}

void RelayingDevice::SetUp(Session& session) {
  record().queues[0].peer_pid = link().peer().pid;
  record().queues[0].peer_inode = link().peer().inode;
  NextStore();
  record().queues[0].place = QueuePlace::kRunning;
  std::vector<GuestMemoryBlock> memory(host().memory_blocks().begin(),
                                       host().memory_blocks().end());
  memory.push_back(rings_);
  // Once it has stopped with what was before.
  session.Then([this] {
    Recover();
    CRASH_POINT("recovered");
    record().queues[0].tracked = 0;
    NextStore();
    for (Queue& queue : queues_) queue.ring.Clear();
    CRASH_POINT("rings_cleared");
    NextStore();
    record().queues[0].tracked = 1;
  });
  session.SetUp((driver_features() & kind().features) | virtio::kFeatureVersion1 |
                    virtio::kFeatureIndirectDescriptors,
                memory, std::nullopt);
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    session.StartQueue(i, {.setup = queues_[i].ring.setup(),
                           .base = 0,
                           .kick = queues_[i].kick->fd(),
                           .call = queues_[i].call->fd()});
  }
  resubmits_ = true;
  AwaitSetUp(session);
}

void RelayingDevice::StopServing(Session& session) {
  for (uint32_t i = 0; i < queues_.size(); ++i) session.StopQueue(i, [](uint16_t) {});
}

bool RelayingDevice::ForgetConnection() {
  const bool used_memory = set_up() != SetUpState::kNone && is_any_in_flight();
  TakeResults();  // what it has completed is done
  for (const Queue& queue : queues_) resubmitted_ += runs() ? queue.in_flight.size() : 0;
  lied_ = false;
  return used_memory;
}

void RelayingDevice::DropStopping() {
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    if (!services().stopping(i)) continue;
    for (const uint16_t head : std::exchange(queues_[i].in_flight, {})) {
      services().Complete(i, head, 0);
    }
  }
  services().Publish();
}

void RelayingDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  BackEndDevice::AppendMetrics(metrics);
  AddCounter(metrics, "requests_passed_on_again_total",
             "Requests that a back end did not complete, and the next one got", resubmitted_);
}

}  // namespace bulkhead::devices::vhost_user
