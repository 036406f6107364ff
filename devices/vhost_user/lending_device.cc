#include "devices/vhost_user/lending_device.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr uint64_t kRingFeatures =
    virtio::kFeatureVersion1 | virtio::kFeatureIndirectDescriptors | virtio::kFeatureEventIndex;

// A back end should have completed all that it took before it says that a queue is stopped. Not all
// do: so long, in milliseconds, they get.
constexpr uint32_t kDrainChecks = 2000;

uint16_t ReadIndex(const GuestMemory& memory, GuestAddress address) {
  uint16_t index = 0;
  memory.ReadObject(address, index);
  return index;
}

}  // namespace

LendingDevice::LendingDevice(DeviceKind kind)
    : BackEndDevice(std::move(kind)), queues_(BackEndDevice::kind().queues) {}

LendingDevice::~LendingDevice() {
  for (const Queue& queue : queues_) {
    if (queue.own_call != nullptr) host().Unwatch(queue.own_call->fd());
  }
}

virtio::VirtioIdentity LendingDevice::Identify() const {
  virtio::VirtioIdentity identity = CommonIdentity();
  identity.durable_memory_bytes +=
      static_cast<uint32_t>(kind().queues * InFlightBytes(kind().queue_size));
  identity.lends_queues = true;
  return identity;
}

absl::Status LendingDevice::Start(virtio::VirtioServices& services) {
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
    RETURN_IF_ERROR(services.host().Watch(event.fd(), [this, i] {
      queues_[i].own_call->Drain();
      this->services().InterruptQueue(i);
    }));
    queues_[i].own_call = std::make_unique<EventFd>(std::move(event));
  }
  RETURN_IF_ERROR(drain_timer_.Start(services.host(), [this] { CheckDrained(); }));
  return BackEndDevice::Start(services);
}

uint64_t LendingDevice::features() const {
  return offered_features() & (kind().features | kRingFeatures);
}

absl::Span<uint8_t> LendingDevice::InFlightArea(uint32_t queue) {
  const size_t size = InFlightBytes(kind().queue_size);
  return services().durable_memory().subspan(kRecordBytes + queue * size, size);
}

bool LendingDevice::tracks(const Session& session) const {
  return session.offer().has(kProtocolInFlight) && !session.in_flight_refused() &&
         host().durable_memory_file().fd >= 0;
}

bool LendingDevice::ForgetConnection() {
  bool served = false;
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    if (std::exchange(queues_[i].state, Queue::State::kIdle) == Queue::State::kIdle) continue;
    served = true;
    queues_[i].call_changes = false;
    host().TakeBackDoorbell(i);
  }
  return served;
}

bool LendingDevice::dma_in_flight() const {
  return may_still_run() || sets_up() ||
         std::any_of(queues_.begin(), queues_.end(),
                     [](const Queue& q) { return q.state != Queue::State::kIdle; });
}

// ---- The queues

void LendingDevice::Sync() {
  if (std::exchange(syncing_, true)) {
    sync_again_ = true;
    return;
  }
  do {
    sync_again_ = false;
    if (Session* const session = link().session(); session != nullptr) SyncSession(*session);
  } while (sync_again_);
  syncing_ = false;
  link().Flush();
}

void LendingDevice::SyncSession(Session& session) {
  bool wanted = false;
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    const bool serve = services().QueueToServe(i) != nullptr;
    if (queue.state == Queue::State::kIdle) wanted |= serve;
    if (queue.state != Queue::State::kServed) continue;
    if (!serve) {
      StopQueue(session, i);
    } else if (const int call = CallOf(i); call != queue.call && !queue.call_changes) {
      // One change at a time, however often the guest changes its mind.
      queue.call = call;
      queue.call_changes = true;
      session.SetCall(i, call);
      session.Then([this, i] {
        queues_[i].call_changes = false;
        services().InterruptQueue(i);
        Sync();
      });
    }
  }
  // Until the earlier ones are gone, features and the area of requests in flight are theirs.
  if (!wanted || may_still_run()) return;
  if (set_up() == SetUpState::kNone) SetUp(session);
  if (set_up() != SetUpState::kDone) return;
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    const virtio::QueueSetup* const setup = services().QueueToServe(i);
    if (setup != nullptr && queues_[i].state == Queue::State::kIdle) {
      StartQueue(session, i, *setup);
    }
  }
}

void LendingDevice::SetUp(Session& session) {
  std::optional<Session::InFlight> in_flight;
  if (tracks(session)) {
    const MemoryFilePlace place = host().durable_memory_file();
    in_flight = {.fd = place.fd,
                 .offset = place.offset + kRecordBytes,
                 .size_bytes = queues_.size() * InFlightBytes(kind().queue_size),
                 .queues = static_cast<uint16_t>(queues_.size()),
                 .queue_size = kind().queue_size};
  }
  session.SetUp(driver_features(), host().memory_blocks(), in_flight);
  AwaitSetUp(session);
}

int LendingDevice::CallOf(uint32_t index) const {
  const int message = services().InterruptDescriptor(index);
  return message >= 0 ? message : queues_[index].own_call->fd();
}

uint16_t LendingDevice::UsedIndex(const virtio::QueueSetup& setup) const {
  return ReadIndex(host().memory(), setup.device_area + virtio::kUsedIdx);
}

std::optional<uint16_t> LendingDevice::Base(uint32_t index, const virtio::QueueSetup& setup,
                                            bool tracks) {
  const QueueRecord saved = record().queues[index];  // a copy: a back end may write there
  const uint16_t used = UsedIndex(setup);
  switch (saved.place) {
    case QueuePlace::kStopped:
      // What it had taken ends without this device, unless it has died since.
      if (saved.base == used) return used;
      break;
    case QueuePlace::kRunning:
      break;
    case QueuePlace::kFresh:
    default:
      return 0;
  }
  if (saved.tracked != 0 && tracks) return used;
  const bool is_same =
      PeerIdentity{saved.peer_pid, saved.peer_inode} == link().peer() && saved.peer_pid != 0;
  if (is_same) return saved.place == QueuePlace::kStopped ? saved.base : used;
  const uint16_t available = ReadIndex(host().memory(), setup.driver_area + virtio::kAvailableIdx);
  if (available == used) return used;
  return std::nullopt;
}

void LendingDevice::StartQueue(Session& session, uint32_t index, const virtio::QueueSetup& setup) {
  const bool tracked = tracks(session);
  const std::optional<uint16_t> base = Base(index, setup, tracked);
  if (!base.has_value()) {
    ++lost_;
    services().Fail(absl::StrCat("queue ", index,
                                 ": the back end has ended over requests, of which it kept no "
                                 "record (protocol feature INFLIGHT_SHMFD)"));
    return;
  }
  QueueRecord& saved = record().queues[index];
  if (tracked && saved.tracked == 0) {
    const absl::Span<uint8_t> area = InFlightArea(index);
    std::fill(area.begin(), area.end(), 0);
    CRASH_POINT("requests_in_flight_cleared");
  }
  saved.base = *base;
  saved.tracked = tracked ? 1 : 0;
  saved.peer_pid = link().peer().pid;
  saved.peer_inode = link().peer().inode;
  NextStore();
  saved.place = QueuePlace::kRunning;
  CRASH_POINT("before_queue_start");
  Queue& queue = queues_[index];
  queue.state = Queue::State::kServed;
  queue.setup = setup;
  queue.call = CallOf(index);
  queue.kick = host().LendDoorbell(index);
  session.StartQueue(index,
                     {.setup = setup, .base = *base, .kick = queue.kick, .call = queue.call});
  // An interrupt of the time before may be lost.
  session.Then([this, index] { services().InterruptQueue(index); });
}

void LendingDevice::StopQueue(Session& session, uint32_t index) {
  queues_[index].state = Queue::State::kStopping;
  session.StopQueue(index, [this, index](uint16_t base) {
    Queue& queue = queues_[index];
    host().TakeBackDoorbell(index);
    CRASH_POINT("doorbell_taken_back");
    queue.state = Queue::State::kDraining;
    queue.stopped_at = base;
    drain_checks_ = 0;
    CheckDrained();
  });
}

void LendingDevice::CheckDrained() {
  bool is_one_left = false;
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    if (queue.state != Queue::State::kDraining) continue;
    if (UsedIndex(queue.setup) != queue.stopped_at && drain_checks_ < kDrainChecks) {
      is_one_left = true;
    } else {
      OnQueueStopped(i, queue.stopped_at);
    }
  }
  ++drain_checks_;
  drain_timer_.Set(is_one_left ? absl::Milliseconds(1) : absl::ZeroDuration());
}

void LendingDevice::OnQueueStopped(uint32_t index, uint16_t base) {
  QueueRecord& saved = record().queues[index];
  saved.base = base;
  CRASH_POINT("before_queue_counts_as_stopped");
  NextStore();
  saved.place = QueuePlace::kStopped;
  queues_[index].state = Queue::State::kIdle;
  if (!dma_in_flight()) services().QueuesStopped();
  Sync();
}

void LendingDevice::OnQueueRung(uint32_t index) {
  const Queue& queue = queues_[index];
  if (queue.state != Queue::State::kServed || IsEventFdPending(queue.kick)) return;
  constexpr uint64_t kOnce = 1;
  if (write(queue.kick, &kOnce, sizeof(kOnce)) < 0) LogWarning("a doorbell could not be passed on");
}

bool LendingDevice::has_requests() const {
  return std::any_of(queues_.begin(), queues_.end(), [this](const Queue& queue) {
    return queue.state == Queue::State::kServed &&
           UsedIndex(queue.setup) !=
               ReadIndex(host().memory(), queue.setup.driver_area + virtio::kAvailableIdx);
  });
}

uint64_t LendingDevice::queues_served() const {
  return static_cast<uint64_t>(std::count_if(queues_.begin(), queues_.end(), [](const Queue& q) {
    return q.state == Queue::State::kServed;
  }));
}

void LendingDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  BackEndDevice::AppendMetrics(metrics);
  AddCounter(metrics, "queues_lost_total",
             "Queues whose requests in flight ended with a back end that kept no record", lost_);
}

}  // namespace bulkhead::devices::vhost_user
