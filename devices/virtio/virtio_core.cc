#include "devices/virtio/virtio_core.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kCoreFeatures =
    kFeatureVersion1 | kFeatureIndirectDescriptors | kFeatureEventIndex | kFeatureRingReset;

// A guest can fail, reset and fail again for ever: it must not fill the log.
constexpr uint32_t kMaxFailuresLogged = 8;

}  // namespace

VirtioCore::Queue::Queue(uint16_t max_size, VirtioCore* core, absl::Span<uint8_t> durable_memory)
    : ring(
          max_size, [core](absl::string_view what) { core->Fail(what); }, durable_memory),
      setup{.size = max_size} {}

VirtioCore::VirtioCore(VirtioDevice* device, InterruptSink* interrupts)
    : device_(device),
      interrupts_(interrupts),
      queue_sizes_(device->Identify().queue_sizes),
      chains_per_turn_(device->Identify().chains_per_turn),
      type_memory_bytes_(device->Identify().durable_memory_bytes),
      times_requests_(device->Identify().times_requests),
      lends_memory_(device->Identify().lends_memory),
      lends_queues_(device->Identify().lends_queues) {}

VirtioCore::~VirtioCore() {
  if (serve_later_ != nullptr) host_->Unwatch(serve_later_->fd());
}

absl::Status VirtioCore::Start(DeviceServices& services) {
  host_ = &services;
  trace_ = services.trace();
  absl::Span<uint8_t> durable = services.durable_memory();
  if (!durable.empty() && durable.size() < durable_memory_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("durable memory of ", durable.size(),
                                                   " bytes, instead of at least ",
                                                   durable_memory_bytes()));
  }
  for (const uint16_t size : queue_sizes_) {
    // Without durable memory the queue's own log is as good as none.
    const absl::Span<uint8_t> part =
        durable.subspan(0, lends_queues_ ? 0 : InFlightLog::SizeBytes(size));
    durable.remove_prefix(part.size());
    queues_.push_back(std::make_unique<Queue>(size, this, part));
  }
  type_memory_ = durable.subspan(0, type_memory_bytes_);
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  RETURN_IF_ERROR(services.Watch(event.fd(), [this] { OnServeLater(); }));
  serve_later_ = std::make_unique<EventFd>(std::move(event));
  RETURN_IF_ERROR(device_->Start(*this));
  offered_features_ = (lends_queues_ ? 0 : kCoreFeatures) | device_->features();
  return absl::OkStatus();
}

uint64_t VirtioCore::durable_memory_bytes() const {
  uint64_t bytes = type_memory_bytes_;
  if (lends_queues_) return bytes;
  for (const uint16_t size : queue_sizes_) bytes += InFlightLog::SizeBytes(size);
  return bytes;
}

void VirtioCore::WriteStatus(uint8_t value) {
  if (resetting_) return;
  if (value == 0) {
    BeginReset();
    return;
  }
  // Bits can only be added (2.1.1), and only a device sets DEVICE_NEEDS_RESET.
  constexpr uint8_t kDriverBits =
      kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk | kStatusFailed;
  const uint8_t wanted = status_ | (value & kDriverBits);
  uint8_t next = status_ | (wanted & (kStatusAcknowledge | kStatusDriver | kStatusFailed));
  const bool identified = (next & kStatusAcknowledge) != 0 && (next & kStatusDriver) != 0;
  if ((wanted & kStatusFeaturesOk) != 0 && identified) {
    // Refused features leave the bit clear: the driver reads it back (3.1.1, step 6).
    const bool subset = (driver_features_ & ~offered_features_) == 0;
    if (subset && (driver_features_ & kFeatureVersion1) != 0) next |= kStatusFeaturesOk;
  }
  if ((wanted & kStatusDriverOk) != 0 && (next & kStatusFeaturesOk) != 0) next |= kStatusDriverOk;

  const uint8_t added = next & ~status_;
  if (added == 0) return;
  status_ = next;
  host_->StateChanged();
  if ((added & kStatusFeaturesOk) != 0) device_->OnFeatures(driver_features_);
  if ((added & kStatusDriverOk) != 0) {
    UpdateServing();
    NotifyAll();
  }
}

void VirtioCore::WriteDriverFeatures(uint64_t features) {
  if (resetting_ || (status_ & kStatusFeaturesOk) != 0 || driver_features_ == features) return;
  driver_features_ = features;
  host_->StateChanged();
}

QueueSetup* VirtioCore::MutableSetup(uint32_t index) {
  Queue& queue = *queues_[index];
  const bool before_driver_ok =
      (status_ & kStatusFeaturesOk) != 0 && (status_ & kStatusDriverOk) == 0;
  if (resetting_ || queue.ring.enabled() || queue.ring.stopping()) return nullptr;
  if (!before_driver_ok && !queue.was_reset) return nullptr;
  return &queue.setup;
}

void VirtioCore::EnableQueue(uint32_t index) {
  if (MutableSetup(index) == nullptr) return;
  Queue& queue = *queues_[index];
  const absl::Status status =
      queue.ring.Enable(host_->memory(), queue.setup, (driver_features_ & kFeatureEventIndex) != 0,
                        (driver_features_ & kFeatureIndirectDescriptors) != 0, queue.epoch + 1);
  if (!status.ok()) {
    Fail(absl::StrCat("queue ", index, ": ", status.message()));
    return;
  }
  ++queue.epoch;
  queue.armed = true;
  queue.was_reset = false;
  host_->StateChanged();
  UpdateServing();
  if (!lends_queues_ && queue.ring.serving()) ServeLater(index);  // when that is saved
}

void VirtioCore::ResetQueue(uint32_t index) {
  if ((driver_features_ & kFeatureRingReset) == 0 || resetting_) return;
  if ((status_ & kStatusDriverOk) == 0) return;
  Queue& queue = *queues_[index];
  if (!queue.ring.enabled()) return;
  Stop(queue);
  queue.was_reset = true;
  host_->StateChanged();
  if (queue.ring.in_flight() != 0) device_->OnQueueStopping(index);
  PublishQueue(index);
}

void VirtioCore::Notify(uint32_t index) {
  if (lends_queues_) {
    if (QueueToServe(index) != nullptr) device_->OnQueueRung(index);
  } else if (queues_[index]->ring.serving()) {
    ServeQueue(index);
  }
}

const QueueSetup* VirtioCore::QueueToServe(uint32_t queue) const {
  return MayServe() && queues_[queue]->ring.enabled() ? &queues_[queue]->setup : nullptr;
}

void VirtioCore::InterruptQueue(uint32_t queue) {
  if (QueueToServe(queue) != nullptr) interrupts_->InterruptQueue(queue);
}

void VirtioCore::OnInterruptsChanged() {
  if (lends_queues_) device_->OnQueuesChanged();
}

// A queue that does not serve gives no chains: then this is a turn for what the device holds.
void VirtioCore::ServeQueue(uint32_t index) {
  Queue& queue = *queues_[index];
  Virtqueue& ring = queue.ring;
  DescriptorChain chain;
  uint32_t left = chains_per_turn_;
  device_->BeginTurn(index);
  if (std::exchange(queue.armed, false)) ring.SuppressDoorbells();
  uint32_t left_before;
  do {
    left_before = left;
    for (; left > 0; --left) {
      const absl::Span<iovec> room = device_->Room(index);
      if (room.empty() || !ring.Pop(room, chain)) break;
      host_->GuestMemoryUsed(chain.readable);
      host_->GuestMemoryUsed(chain.writable);
      if (trace_.on()) TraceTaken(index, chain);
      if (times_requests_ && queue.timer.Wants(chain.head)) {
        queue.timer.Begin(chain.head, channel::TraceNow());
      }
      device_->OnChain(index, chain);
    }
    device_->EndBatch(index);
    if (left == 0) ServeLater(index);
    // While a turn is due anyway, or the device is full, nobody looks for chains.
    queue.watched = left != 0 && !device_->Room(index).empty();
    // Without a chain in this round: the driver has moved its index back and forth.
  } while (queue.watched && left != left_before && ring.HasAvailable());
  Publish();
  host_->KeepAlive();
}

void VirtioCore::TraceTaken(uint32_t queue, const DescriptorChain& chain) const {
  const auto bytes = [](absl::Span<const iovec> buffers) {
    uint64_t sum = 0;
    for (const iovec& buffer : buffers) sum += buffer.iov_len;
    return sum;
  };
  trace_.Write(channel::TraceRecord::kTaken, queue, chain.head,
               channel::BytesOfBuffers(bytes(chain.readable), bytes(chain.writable)));
}

bool VirtioCore::HasWork() const {
  for (const auto& queue : queues_) {
    if (queue->watched && queue->ring.HasAvailable()) return true;
  }
  return device_->HasResults();
}

void VirtioCore::DoWork() {
  if (device_->HasResults()) device_->TakeResults();
  for (uint32_t i = 0; i < queue_count(); ++i) {
    if (queues_[i]->watched && queues_[i]->ring.HasAvailable()) ServeQueue(i);
  }
  CRASH_POINT("after_work_polled");
}

bool VirtioCore::PrepareToSleep() {
  bool has_work = false;
  for (const auto& queue : queues_) {
    if (!queue->watched || !queue->ring.serving()) continue;
    if (std::exchange(queue->armed, true)) continue;
    if (queue->ring.RearmDoorbell()) has_work = true;
  }
  return has_work || device_->HasResults();
}

void VirtioCore::SetDmaAllowed(bool allowed) {
  if (dma_allowed_ == allowed) return;
  dma_allowed_ = allowed;
  UpdateServing();
  if (lends_queues_ || !allowed || (status_ & kStatusDriverOk) == 0) return;
  // Queues that do not serve may have work that was held back, too.
  for (uint32_t i = 0; i < queue_count(); ++i) ServeQueue(i);
}

void VirtioCore::SetServing(bool serving) {
  host_serves_ = serving;
  UpdateServing();
  if (serving) NotifyAll();
}

void VirtioCore::Complete(uint32_t queue, uint16_t head, uint32_t written_bytes) {
  if (trace_.on()) trace_.Write(channel::TraceRecord::kCompleted, queue, head, written_bytes);
  Queue& its_queue = *queues_[queue];
  if (its_queue.timer.IsTimed(head)) {
    request_latency_.Add(its_queue.timer.End(channel::TraceNow()));
  }
  its_queue.ring.Complete(head, written_bytes);
  its_queue.completed = true;
}

void VirtioCore::Publish() {
  for (uint32_t i = 0; i < queue_count(); ++i) {
    if (std::exchange(queues_[i]->completed, false)) PublishQueue(i);
  }
}

void VirtioCore::PublishQueue(uint32_t index) {
  Virtqueue& ring = queues_[index]->ring;
  if (ring.Publish()) interrupts_->InterruptQueue(index);
  if (!ring.stopping() || ring.in_flight() != 0) return;
  ring.Disable();
  queues_[index]->setup = {.size = ring.max_size()};
  host_->StateChanged();
  if (resetting_) FinishReset();
}

void VirtioCore::ServeLater(uint32_t queue) {
  queues_[queue]->serve_later = true;
  serve_later_->Signal();
}

void VirtioCore::OnServeLater() {
  serve_later_->Drain();
  for (uint32_t i = 0; i < queue_count(); ++i) {
    if (std::exchange(queues_[i]->serve_later, false)) ServeQueue(i);
  }
}

void VirtioCore::Fail(absl::string_view reason) {
  const bool already = (status_ & kStatusNeedsReset) != 0;
  status_ |= kStatusNeedsReset;
  UpdateServing();
  if (already || resetting_) return;
  host_->StateChanged();
  if (++failures_ <= kMaxFailuresLogged) {
    LogWarning(absl::StrCat("the driver must reset the device: ", reason));
  }
  if ((status_ & kStatusDriverOk) != 0) interrupts_->InterruptConfig();
}

void VirtioCore::Reset() {
  if (!resetting_) BeginReset();
}

void VirtioCore::BeginReset() {
  resetting_ = true;
  host_->StateChanged();
  for (const auto& queue : queues_) Stop(*queue);
  for (uint32_t i = 0; i < queue_count(); ++i) {
    if (queues_[i]->ring.in_flight() != 0) device_->OnQueueStopping(i);
  }
  if (lends_queues_) device_->OnQueuesChanged();
  FinishReset();
}

void VirtioCore::Stop(Queue& queue) {
  queue.ring.Stop();
  queue.timer.Drop();
}

void VirtioCore::FinishReset() {
  if (!resetting_) return;
  for (const auto& queue : queues_) {
    if (queue->ring.in_flight() != 0) return;
  }
  if (lends_memory_ && device_->dma_in_flight()) return;
  for (const auto& queue : queues_) {
    queue->ring.Disable();
    queue->setup = {.size = queue->ring.max_size()};
    queue->was_reset = queue->serve_later = false;
  }
  driver_features_ = 0;
  status_ = 0;
  resetting_ = false;
  host_->StateChanged();
  device_->OnFeatures(0);
}

bool VirtioCore::MayServe() const {
  return (status_ & kStatusDriverOk) != 0 && (status_ & kStatusNeedsReset) == 0 && !resetting_ &&
         dma_allowed_ && host_serves_;
}

void VirtioCore::AppendMetrics(v1::DeviceMetrics& metrics) const {
  uint64_t resubmitted = 0;
  for (const auto& queue : queues_) resubmitted += queue->ring.resubmitted();
  AddCounter(metrics, "resubmitted_total", "Requests of an earlier process that were done again",
             resubmitted);
  AddCounter(metrics, "driver_failures_total", "Times that the driver was told to reset",
             failures_);
  if (times_requests_) {
    v1::RequestLatency& latency = *metrics.mutable_request_latency();
    latency.mutable_buckets()->Assign(request_latency_.buckets.begin(),
                                      request_latency_.buckets.end());
    latency.set_sum_nanoseconds(
        static_cast<uint64_t>(absl::ToInt64Nanoseconds(request_latency_.sum)));
  }
  device_->AppendMetrics(metrics);
}

void VirtioCore::UpdateServing() {
  if (lends_queues_) {
    device_->OnQueuesChanged();
    return;
  }
  // Asked each time: a queue that cannot go on from where it was fails the device.
  for (const auto& queue : queues_) queue->ring.SetServing(MayServe());
}

void VirtioCore::NotifyAll() {
  for (uint32_t i = 0; i < queue_count(); ++i) Notify(i);
}

}  // namespace bulkhead::devices::virtio
