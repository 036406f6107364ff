#include "devices/virtio_blk/block_device.h"

#include <string.h>

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/virtio/append_metric.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kPciClassScsi = 0x010000;  // mass storage: what virtio disks say since ever

constexpr uint32_t kMaxQueues = 32;
constexpr uint32_t kMinQueueSize = 4;        // header, data, status, and one to spare
constexpr uint32_t kMaxQueueEntries = 1024;  // the kernel takes no more buffers (UIO_MAXIOV)
constexpr uint32_t kMaxInFlight = 8192;

constexpr uint32_t kMaxSegmentBytes = 1 << 20;
constexpr uint32_t kMaxRanges = 32;
constexpr uint32_t kMaxDiscardSectors = 1 << 21;      // 1 GiB: one fallocate
constexpr uint32_t kMaxWriteZeroesSectors = 1 << 17;  // 64 MiB: may become writes

// A device process ends within a second.
constexpr absl::Duration kDrainTimeout = absl::Milliseconds(500);
// A failing disk fails every request: that must not fill the log.
constexpr uint32_t kMaxFailuresLogged = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<BlockDevice>> BlockDevice::Create(const BlockOptions& options) {
  if (options.queues < 1 || options.queues > kMaxQueues) {
    return absl::InvalidArgumentError(
        absl::StrCat("--queues=", options.queues, ": must be 1 to ", kMaxQueues));
  }
  if (!std::has_single_bit(options.queue_size) || options.queue_size < kMinQueueSize ||
      options.queue_size > kMaxQueueEntries) {
    return absl::InvalidArgumentError(absl::StrCat("--queue_size=", options.queue_size,
                                                   ": must be a power of two from ", kMinQueueSize,
                                                   " to ", kMaxQueueEntries));
  }
  if (options.queues * options.queue_size > kMaxInFlight) {
    return absl::InvalidArgumentError(
        absl::StrCat("--queues=", options.queues, " of --queue_size=", options.queue_size,
                     ": together more than ", kMaxInFlight, " entries"));
  }
  if (options.serial.size() > kBlockIdSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("--serial=", options.serial, ": is longer than ", kBlockIdSize, " bytes"));
  }
  return std::unique_ptr<BlockDevice>(new BlockDevice(options));
}

BlockDevice::BlockDevice(const BlockOptions& options) : options_(options) {}

BlockDevice::~BlockDevice() {
  if (ring_ == nullptr) return;
  host_->Unwatch(ring_->fd());
  if (!ring_->Drain(kDrainTimeout)) LogWarning("disk: left with I/O that does not end");
}

VirtioIdentity BlockDevice::Identify() const {
  const uint16_t size = static_cast<uint16_t>(options_.queue_size);
  return {.model = "virtio-blk",
          .type = kTypeBlock,
          .pci_class = kPciClassScsi,
          .config_size = kBlockConfigSize,
          .queue_sizes = std::vector<uint16_t>(options_.queues, size),
          .required_resources = {"disk"},
          .saved_state_bytes = kSavedBytes,
          .state_version = 2};
}

absl::Status BlockDevice::Start(VirtioServices& services) {
  services_ = &services;
  host_ = &services.host();
  if (host_->writeback_failed("disk")) {
    writeback_failed_ = true;
    host_->StateChanged();
  }
  ASSIGN_OR_RETURN(UniqueFd fd, host_->TakeResource("disk"));
  ASSIGN_OR_RETURN(disk_, AdoptDisk(std::move(fd), options_.read_only));

  features_ =
      kBlockSizeMax | kBlockSegMax | kBlockBlkSize | kBlockFlush | kBlockTopology | kBlockConfigWce;
  if (options_.queues > 1) features_ |= kBlockMultiQueue;
  features_ |= disk_.read_only ? kBlockReadOnly : kBlockDiscard | kBlockWriteZeroes;
  FillConfig();
  limits_.sectors = disk_.sectors;
  limits_.read_only = disk_.read_only;
  limits_.max_request_bytes = uint64_t{config_.size_max} * config_.seg_max;
  limits_.max_ranges = kMaxRanges;
  limits_.max_discard_sectors = kMaxDiscardSectors;
  limits_.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
  limits_.id = options_.serial;

  // One slot more than chains can be in flight: Pop() is always given storage.
  const uint32_t in_flight = options_.queues * options_.queue_size;
  slots_.resize(in_flight + 1);
  for (uint32_t i = in_flight + 1; i > 0; --i) free_slots_.push_back(i - 1);
  storage_size_ =
      Virtqueue::StorageSize(static_cast<uint16_t>(options_.queue_size), host_->memory());
  storage_ = std::make_unique_for_overwrite<iovec[]>(slots_.size() * storage_size_);
  completed_.resize(options_.queues);
  held_.reserve(in_flight);

  ASSIGN_OR_RETURN(std::unique_ptr<IoRing> ring, IoRing::Create(disk_.fd.get(), in_flight));
  RETURN_IF_ERROR(host_->Watch(ring->fd(), [this] {
    ReapResults();
    Submit();
    PublishCompleted();
  }));
  ring_ = std::move(ring);
  return absl::OkStatus();
}

void BlockDevice::FillConfig() {
  config_.capacity = disk_.sectors;
  config_.size_max = kMaxSegmentBytes;
  config_.seg_max = options_.queue_size - 2;  // with header and status it fills the queue
  config_.blk_size = kSectorSize;
  const uint32_t physical_sectors = disk_.physical_block_size / kSectorSize;
  config_.physical_block_exp = static_cast<uint8_t>(std::countr_zero(physical_sectors));
  config_.min_io_size = static_cast<uint16_t>(physical_sectors);
  config_.writeback = 1;
  config_.num_queues = static_cast<uint16_t>(options_.queues);
  if (disk_.read_only) return;
  config_.max_discard_sectors = kMaxDiscardSectors;
  config_.max_discard_seg = kMaxRanges;
  config_.discard_sector_alignment = physical_sectors;
  config_.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
  config_.max_write_zeroes_seg = kMaxRanges;
  config_.write_zeroes_may_unmap = 1;
}

void BlockDevice::OnFeatures(uint64_t features) {
  negotiated_ = features;
  // Section 5.2.5.2: a driver that can choose the mode and cannot flush starts with write-through.
  const bool cannot_flush = (features & kBlockFlush) == 0;
  config_.writeback = (features & kBlockConfigWce) != 0 && cannot_flush ? 0 : 1;
  limits_.discard = (features & kBlockDiscard) != 0;
  limits_.write_zeroes = (features & kBlockWriteZeroes) != 0;
  UpdateWriteThrough();
}

// Section 5.2.5, item 5, and 5.2.6.2: who can neither flush nor choose gets durable writes.
void BlockDevice::UpdateWriteThrough() {
  limits_.write_through = (negotiated_ & kBlockConfigWce) != 0 ? config_.writeback == 0
                                                               : (negotiated_ & kBlockFlush) == 0;
}

void BlockDevice::ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const {
  memcpy(out.data(), reinterpret_cast<const uint8_t*>(&config_) + offset, out.size());
}

void BlockDevice::WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) {
  constexpr uint32_t kWriteback = offsetof(BlockConfig, writeback);
  if ((negotiated_ & kBlockConfigWce) == 0) return;
  if (kWriteback < offset || kWriteback - offset >= bytes.size()) return;
  const uint8_t writeback = bytes[kWriteback - offset] & 1;
  if (std::exchange(config_.writeback, writeback) == writeback) return;
  UpdateWriteThrough();
  host_->StateChanged();
}

void BlockDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  counters_.AppendMetrics(metrics);
  AppendMetric(metrics, "in_flight", "Requests taken and not answered",
               slots_.size() - free_slots_.size(), MetricKind::kGauge);
}

absl::Span<iovec> BlockDevice::Storage(uint32_t slot) {
  return absl::MakeSpan(&storage_[slot * storage_size_], storage_size_);
}

void BlockDevice::OnQueue(uint32_t index) {
  ReleaseHeld();
  Virtqueue& queue = services_->queue(index);
  uint32_t budget = options_.queue_size;
  do {
    queue.SuppressDoorbells();
    DescriptorChain chain;
    while (budget > 0 && queue.Pop(Storage(free_slots_.back()), chain)) {
      --budget;
      const uint32_t slot = free_slots_.back();
      free_slots_.pop_back();
      slots_[slot].queue = index;
      Begin(slot, chain);
    }
    if (budget == 0) {
      services_->ServeLater(index);
      break;
    }
  } while (queue.RearmDoorbell());
  Submit();
  ReapResults();  // what the page cache has answered at once
  Submit();
  PublishCompleted();
}

void BlockDevice::Begin(uint32_t slot, const DescriptorChain& chain) {
  slots_[slot].head = chain.head;
  Continue(slot, slots_[slot].request.Begin(chain, limits_));
}

// Only while guest memory may be touched.
void BlockDevice::Continue(uint32_t index, BlockRequest::Step step) {
  Slot& slot = slots_[index];
  if (step == BlockRequest::Step::kOperate) {
    ring_->Prepare(slot.request.operation(), index);
    return;
  }
  uint32_t written = 0;
  if (step == BlockRequest::Step::kDone) {
    if (slot.request.error_number() != 0) LogFailure(slot.request);
    written = slot.request.Finish();
    counters_.Count(slot.request);
  }
  services_->queue(slot.queue).Complete(slot.head, written);
  completed_[slot.queue] = 1;
  free_slots_.push_back(index);
  if (step == BlockRequest::Step::kMalformed) {
    services_->Fail("disk: a request without room for its header or its status");
  }
}

void BlockDevice::Submit() {
  CRASH_POINT("disk_before_submit");
  // What the kernel cannot take now is in the ring already: the next turn offers it again.
  if (!ring_->Submit()) services_->ServeLater(0);
  CRASH_POINT("disk_after_submit");
}

void BlockDevice::ReapResults() {
  IoRing::Result result;
  // Bounded: what is finished is less than what is in flight, and nothing is added meanwhile.
  while (ring_->Reap(result)) OnResult(result);
}

void BlockDevice::OnResult(const IoRing::Result& result) {
  CRASH_POINT("disk_after_result");
  const uint32_t index = static_cast<uint32_t>(result.id);
  Slot& slot = slots_[index];
  Virtqueue& queue = services_->queue(slot.queue);
  if (queue.stopping()) {
    queue.Complete(slot.head, 0);
    completed_[slot.queue] = 1;
    free_slots_.push_back(index);
    return;
  }
  if (!services_->dma_allowed()) {
    held_.push_back(result);
    return;
  }
  const int32_t outcome = WithWritebackFailure(slot.request.operation(), result.result);
  Continue(index, slot.request.OnResult(outcome, limits_));
}

void BlockDevice::ReleaseHeld() {
  // OnResult() may hold some of them back again.
  const size_t count = held_.size();
  for (size_t i = 0; i < count; ++i) {
    const IoRing::Result result = held_[i];
    OnResult(result);
  }
  held_.erase(held_.begin(), held_.begin() + count);
}

void BlockDevice::OnQueueStopping(uint32_t) {
  ReleaseHeld();
  Submit();
  PublishCompleted();
}

void BlockDevice::PublishCompleted() {
  for (uint32_t i = 0; i < options_.queues; ++i) {
    if (std::exchange(completed_[i], 0) != 0) services_->Publish(i);
  }
}

void BlockDevice::LogFailure(const BlockRequest& request) {
  if (failures_logged_ == kMaxFailuresLogged) return;
  ++failures_logged_;
  LogError(
      absl::StrCat("disk: request of type ", request.type(), " at sector ", request.sector(), ": ",
                   strerror(request.error_number()),
                   failures_logged_ == kMaxFailuresLogged ? " (further ones are not told)" : ""));
}

}  // namespace bulkhead::devices::virtio
