#include "devices/virtio_blk/block_device.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/forbid_rings.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kPciClassScsi = 0x010000;  // mass storage, as all virtio disks have it

constexpr uint32_t kMaxQueues = 32;
constexpr uint32_t kMinQueueSize = 4;  // header, data, status, and one to spare
constexpr uint32_t kMaxQueueEntries = 1024;
constexpr uint32_t kMaxInFlight = 8192;

constexpr uint32_t kMaxSegmentBytes = 1 << 20;
constexpr uint32_t kMaxRanges = 32;
constexpr uint32_t kMaxDiscardSectors = 1 << 21;      // 1 GiB
constexpr uint32_t kMaxWriteZeroesSectors = 1 << 17;  // 64 MiB: may become writes

// What one submission starts, at most, though always one operation: reads that the page cache has
// are done within it, at about 0.1 ms a MiB.
constexpr uint32_t kBatchOperations = 16;
constexpr int64_t kBatchBytes = 1 << 20;
constexpr int64_t kMinOperationBytes = 4096;  // what any operation counts as
// What one turn of the loop starts, at most. Registers wait for its end.
constexpr int64_t kTurnBytes = 8 << 20;

// How long to wait at the start for the file system: less than the vmm waits for a start.
constexpr absl::Duration kAdoptTimeout = absl::Seconds(5);
// How long to wait for a host that is short of something: see BlockRequest::kMaxPauses.
constexpr absl::Duration kRetryInterval = absl::Milliseconds(5);

// How long this thread waits for another one to write to the page cache: registers wait as long.
constexpr absl::Duration kMaxAwait = absl::Microseconds(200);

// A device process ends within a second.
constexpr absl::Duration kDrainTimeout = absl::Milliseconds(500);
// A failing disk may fail every request, which must not fill the log.
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
  if (retry_timer_.ok()) host_->Unwatch(retry_timer_.get());
  if (error_link_.ok()) host_->Unwatch(error_link_.get());
  const absl::Time deadline = SteadyNow() + kDrainTimeout;
  for (DiskEngine* engine : {engine_.get(), side_engine_.get()}) {
    if (engine == nullptr) continue;
    host_->Unwatch(engine->fd());
    if (!engine->Drain(deadline - SteadyNow())) LogWarning("disk: exits with I/O still in flight");
  }
}

VirtioIdentity BlockDevice::Identify() const {
  const uint16_t size = static_cast<uint16_t>(options_.queue_size);
  return {.model = "virtio-blk",
          .type = kTypeBlock,
          .pci_class = kPciClassScsi,
          .config_size = kBlockConfigSize,
          .queue_sizes = std::vector<uint16_t>(options_.queues, size),
          .chains_per_turn = size,
          .times_requests = true,
          .required_resources = options_.pause_on_error ? std::vector<std::string>{"disk", "errors"}
                                                        : std::vector<std::string>{"disk"},
          .saved_state_bytes = kSavedBytes,
          .durable_memory_bytes = sizeof(RateDebt),
          .state_version = 3};
}

absl::Status BlockDevice::Start(VirtioServices& services) {
  services_ = &services;
  host_ = &services.host();
  if (host_->writeback_failed("disk")) {
    failures_.Failed();
    SaveFailures();
  }
  ASSIGN_OR_RETURN(UniqueFd fd, host_->TakeResource("disk"));
  ASSIGN_OR_RETURN(disk_, AdoptDiskInTime(std::move(fd), options_.read_only, kAdoptTimeout));

  features_ =
      kBlockSizeMax | kBlockSegMax | kBlockBlkSize | kBlockFlush | kBlockTopology | kBlockConfigWce;
  if (options_.queues > 1) features_ |= kBlockMultiQueue;
  features_ |= disk_.read_only ? kBlockReadOnly : kBlockWriteZeroes;
  if (!disk_.read_only && options_.discard) features_ |= kBlockDiscard;
  FillConfig();
  context_.sectors = disk_.sectors;
  context_.read_only = disk_.read_only;
  context_.max_bytes = uint64_t{config_.size_max} * config_.seg_max;
  context_.max_ranges = kMaxRanges;
  context_.max_discard_sectors = kMaxDiscardSectors;
  context_.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
  context_.may_unmap = options_.discard;
  context_.id = options_.serial;
  context_.is_block_device = disk_.is_block_device;
  dirty_.emplace(disk_.sectors * kSectorSize);
  context_.dirty = &*dirty_;
  context_.failures = &failures_;
  context_.is_direct = disk_.is_direct();
  if (disk_.is_direct()) dirty_->SyncBegins();  // a predecessor left no dirty pages either

  // One slot more than chains can be in flight: Pop() is always given storage.
  const uint32_t in_flight = options_.queues * options_.queue_size;
  slots_.resize(in_flight + 1);
  for (uint32_t i = in_flight + 1; i > 0; --i) free_slots_.push_back(i - 1);
  storage_size_ =
      Virtqueue::StorageSize(static_cast<uint16_t>(options_.queue_size), host_->memory());
  storage_ = std::make_unique_for_overwrite<iovec[]>(slots_.size() * storage_size_);
  held_.reserve(in_flight);

  const absl::Span<uint8_t> durable = services.durable_memory();
  RateDebt& debt = durable.empty() ? own_debt_ : *reinterpret_cast<RateDebt*>(durable.data());
  RETURN_IF_ERROR(limits_.Start(*host_, options_.limits, options_.queues, debt,
                                [this] { ServeNextLimited(); }));
  if (options_.pause_on_error) RETURN_IF_ERROR(StartErrorLink());
  return StartEngine(in_flight);
}

absl::Status BlockDevice::StartEngine(uint32_t max_operations) {
  ASSIGN_OR_RETURN(ChosenEngine chosen, engine_factory_
                                            ? engine_factory_(disk_, max_operations)
                                            : CreateEngine(options_.engine, disk_, max_operations));
  if (options_.forbid_new_rings) RETURN_IF_ERROR(ForbidNewRings());
  is_io_uring_ = chosen.is_io_uring;
  RETURN_IF_ERROR(host_->Watch(chosen.engine->fd(), [this] { OnEngine(); }));
  engine_ = std::move(chosen.engine);
  ASSIGN_OR_RETURN(auto side,
                   CreateSideEngine(options_.engine, is_io_uring_, disk_, max_operations));
  if (side != nullptr) {
    RETURN_IF_ERROR(host_->Watch(side->fd(), [this] { OnEngine(); }));
    side_engine_ = std::move(side);
  }
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.ok()) return ErrnoToStatus(errno, "timerfd_create");
  RETURN_IF_ERROR(host_->Watch(timer.get(), [this] { OnRetryTimer(); }));
  retry_timer_ = std::move(timer);
  return absl::OkStatus();
}

void BlockDevice::FillConfig() {
  config_.capacity = disk_.sectors;
  config_.size_max = kMaxSegmentBytes;
  config_.seg_max = options_.queue_size - 2;  // with header and status it fills the queue
  config_.blk_size = std::max<uint32_t>(kSectorSize, disk_.direct_alignment);
  const uint32_t physical_sectors = disk_.physical_block_size / kSectorSize;
  config_.physical_block_exp = static_cast<uint8_t>(std::countr_zero(physical_sectors));
  config_.min_io_size = static_cast<uint16_t>(physical_sectors);
  config_.writeback = 1;
  config_.num_queues = static_cast<uint16_t>(options_.queues);
  if (disk_.read_only) return;
  config_.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
  config_.max_write_zeroes_seg = kMaxRanges;
  if (!options_.discard) return;
  config_.max_discard_sectors = kMaxDiscardSectors;
  config_.max_discard_seg = kMaxRanges;
  config_.discard_sector_alignment = physical_sectors;
  config_.write_zeroes_may_unmap = 1;
}

void BlockDevice::OnFeatures(uint64_t features) {
  negotiated_ = features;
  // Section 5.2.5.2: a driver that can choose the mode and cannot flush starts with write-through.
  const bool cannot_flush = (features & kBlockFlush) == 0;
  config_.writeback = (features & kBlockConfigWce) != 0 && cannot_flush ? 0 : 1;
  context_.discard = (features & kBlockDiscard) != 0;
  context_.write_zeroes = (features & kBlockWriteZeroes) != 0;
  UpdateWriteThrough();
}

// Section 5.2.5, item 5, and 5.2.6.2: a driver that can neither flush nor choose gets durable
// writes.
void BlockDevice::UpdateWriteThrough() {
  context_.write_through = (negotiated_ & kBlockConfigWce) != 0 ? config_.writeback == 0
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
  AddGauge(metrics, "in_flight", "Requests taken and not answered",
           slots_.size() - free_slots_.size());
  AddCounter(metrics, "limited_total", "Times that a rate limit held requests back",
             limits_.times_limited());
  const bool has_writers = side_engine_ != nullptr && !disk_.is_block_device;
  AddGauge(metrics, "io_uring", "1: I/O goes through io_uring; 0: through threads",
           is_io_uring_ ? 1 : 0);
  AddGauge(metrics, "write_threads", "Threads beside it that write, at most",
           has_writers ? side_engine_->max_threads() : 0);
  AddGauge(metrics, "writes_by_threads", "1: these threads write now; 0: io_uring does",
           has_writers && (!disk_.is_direct() || choice_.prefers_side()) ? 1 : 0);
  AddGauge(metrics, "io_engine_option", "1: chosen by --io_engine; 0: by the kind of file",
           options_.engine == EngineKind::kAuto ? 0 : 1);
  AddGauge(metrics, "file_in_memory", "1: on tmpfs: the disk's own thread reads and writes it",
           disk_.is_in_memory ? 1 : 0);
  AddGauge(metrics, "direct_io", "1: I/O goes past the host's page cache",
           disk_.is_direct() ? 1 : 0);
}

void BlockDevice::BeginTurn(uint32_t) {
  ReleaseHeld();
  AnswerErrors();
  turn_bytes_ = kTurnBytes;
  RunReady();
}

absl::Span<iovec> BlockDevice::Room(uint32_t queue) {
  if (turn_bytes_ <= 0) return {};
  if (limits_.MustWait(queue)) return {};
  return absl::MakeSpan(&storage_[free_slots_.back() * storage_size_], storage_size_);
}

void BlockDevice::OnChain(uint32_t queue, const DescriptorChain& chain) {
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[slot].queue = queue;
  slots_[slot].head = chain.head;
  Continue(slot, slots_[slot].request.Begin(chain, context_));
  limits_.Take(1, slots_[slot].request.moved_bytes());
  if (++batch_chains_ == kBatchOperations) RunReady();
}

void BlockDevice::EndBatch(uint32_t queue) {
  RunReady();
  SubmitWaiting();
  if (turn_bytes_ <= 0) services_->ServeLater(queue);
  ServeNextLimited();
}

void BlockDevice::ServeNextLimited() {
  if (const std::optional<uint32_t> queue = limits_.NextTurn(); queue.has_value()) {
    services_->ServeLater(*queue);
  }
}

// Only while guest memory may be touched.
void BlockDevice::Continue(uint32_t index, BlockRequest::Step step) {
  Slot& slot = slots_[index];
  if (step == BlockRequest::Step::kOperate) {
    Append(ready_, index);
    return;
  }
  if (step == BlockRequest::Step::kOperateLater) {
    Append(paused_, index);
    RetrySoon();
    return;
  }
  if (step == BlockRequest::Step::kHold) return Hold(index);
  uint32_t written = 0;
  if (step == BlockRequest::Step::kDone) {
    if (slot.request.error_number() != 0) LogFailure(slot.request);
    written = slot.request.Finish();
    counters_.Count(slot.request);
  }
  GiveBack(index, written);
  if (step == BlockRequest::Step::kMalformed) {
    services_->Fail("disk: a request without room for its header or its status");
  }
}

void BlockDevice::GiveBack(uint32_t index, uint32_t written_bytes) {
  const Slot& slot = slots_[index];
  services_->Complete(slot.queue, slot.head, written_bytes);
  free_slots_.push_back(index);
}

void BlockDevice::Append(SlotList& list, uint32_t index) {
  slots_[index].next = kNoSlot;
  (list.first == kNoSlot ? list.first : slots_[list.last].next) = index;
  list.last = index;
}

void BlockDevice::RunReady() {
  batch_chains_ = 0;
  // What is left when the turn has started its bytes waits for ServeLater().
  while (ready_.first != kNoSlot && turn_bytes_ > 0 && services_->dma_allowed()) {
    turn_bytes_ -= PrepareBatch();
    const bool submitted = Submit();
    ReapResults();  // what the page cache has answered at once
    services_->Publish();
    host_->KeepAlive();
    if (!submitted) return;
  }
}

int64_t BlockDevice::PrepareBatch() {
  int64_t bytes = 0;
  for (uint32_t i = 0; i < kBatchOperations && bytes < kBatchBytes; ++i) {
    const uint32_t index = ready_.first;
    if (index == kNoSlot) break;
    ready_.first = slots_[index].next;
    const FileOperation& operation = slots_[index].request.operation();
    if (operation.kind == FileOperation::Kind::kSync && JoinSync(index)) continue;
    EngineFor(slots_[index]).Prepare(operation, index);
    if (slots_[index].request.writes_zeros()) limits_.Take(0, operation.length);
    const bool transfers = !operation.buffers.empty();
    bytes += std::max(transfers ? static_cast<int64_t>(operation.length) : 0, kMinOperationBytes);
  }
  return bytes;
}

bool BlockDevice::JoinSync(uint32_t index) {
  if (sync_.leader == kNoSlot) {
    sync_.leader = index;
    return false;
  }
  Append(sync_.started ? sync_.later : sync_.followers, index);
  return true;
}

void BlockDevice::EndSync(int32_t result) {
  const Sync ended = std::exchange(sync_, {});
  for (uint32_t index = ended.followers.first; index != kNoSlot;) {
    const uint32_t next = slots_[index].next;
    OnResult({.id = index, .result = result});
    index = next;
  }
  for (uint32_t index = ended.later.first; index != kNoSlot;) {
    Append(ready_, std::exchange(index, slots_[index].next));
  }
}

DiskEngine& BlockDevice::EngineFor(Slot& slot) {
  if (side_engine_ == nullptr) return *engine_;
  const FileOperation& operation = slot.request.operation();
  if (operation.kind == FileOperation::Kind::kDiscard) return *side_engine_;
  if (operation.kind != FileOperation::Kind::kWrite || disk_.is_block_device) return *engine_;
  if (!disk_.is_direct()) return operation.durable ? *engine_ : *side_engine_;
  slot.begin = SteadyNow();
  return choice_.NextIsSide(operation.length) ? *side_engine_ : *engine_;
}

bool BlockDevice::Submit() {
  CRASH_POINT("disk_before_submit");
  sync_.started = sync_.leader != kNoSlot;
  bool submitted = engine_->Submit();
  if (side_engine_ != nullptr && !side_engine_->Submit()) submitted = false;
  CRASH_POINT("disk_after_submit");
  if (!submitted) RetrySoon();  // the engine has it already: the next Submit() offers it again
  return submitted;
}

// Puts no earlier retry off.
void BlockDevice::RetrySoon() {
  if (std::exchange(retries_soon_, true)) return;
  itimerspec once{};
  once.it_value = absl::ToTimespec(kRetryInterval);
  timerfd_settime(retry_timer_.get(), 0, &once, nullptr);
}

// Comes last: its results arrive as an event, after which the operations that still wait are looked
// at again.
void BlockDevice::SubmitWaiting() {
  // It reads guest memory.
  const bool waits =
      engine_->has_waiting() || (side_engine_ != nullptr && side_engine_->has_waiting());
  if (services_->dma_allowed() && waits) Submit();
}

void BlockDevice::OnRetryTimer() {
  uint64_t expirations;
  if (read(retry_timer_.get(), &expirations, sizeof(expirations)) < 0) return;
  retries_soon_ = false;
  for (uint32_t index = std::exchange(paused_.first, kNoSlot); index != kNoSlot;) {
    Append(ready_, std::exchange(index, slots_[index].next));
  }
  // It reads guest memory.
  if (services_->dma_allowed()) {
    Submit();
  } else if (in_flight() != 0) {
    RetrySoon();
  }
  OnEngine();
}

void BlockDevice::OnEngine() {
  ReapResults();
  turn_bytes_ = kTurnBytes;
  RunReady();
  SubmitWaiting();
  services_->Publish();
  if (ready_.first != kNoSlot && turn_bytes_ <= 0) services_->ServeLater(0);
}

bool BlockDevice::awaits_side() const {
  return options_.await_writes && !disk_.is_direct() && !side_is_late_ &&
         side_engine_->in_flight() != 0;
}

bool BlockDevice::HasResults() const {
  if (engine_->has_results()) return true;
  return side_engine_ != nullptr && (side_engine_->has_results() || awaits_side());
}

void BlockDevice::TakeResults() {
  if (side_engine_ != nullptr && awaits_side() && !side_engine_->has_results()) {
    pollfd results[] = {{.fd = side_engine_->fd(), .events = POLLIN, .revents = 0},
                        {.fd = engine_->fd(), .events = POLLIN, .revents = 0}};
    const timespec limit = absl::ToTimespec(kMaxAwait);
    if (ppoll(results, 2, &limit, nullptr) == 0) side_is_late_ = true;
  }
  OnEngine();
}

void BlockDevice::ReapResults() {
  DiskEngine::Result result;
  // Bounded: what is finished is less than what is in flight, and nothing is added meanwhile.
  while (engine_->Reap(result)) OnReaped(result, /*is_side=*/false);
  while (side_engine_ != nullptr && side_engine_->Reap(result)) {
    side_is_late_ = false;
    OnReaped(result, /*is_side=*/true);
  }
}

void BlockDevice::OnReaped(const DiskEngine::Result& result, bool is_side) {
  const absl::Time begin = std::exchange(slots_[result.id].begin, absl::InfiniteFuture());
  if (begin != absl::InfiniteFuture()) {
    // One that failed, or was not even tried, says nothing.
    const uint64_t length = slots_[result.id].request.operation().length;
    if (result.result > 0 && static_cast<uint64_t>(result.result) == length) {
      choice_.Ended(is_side, length, SteadyNow() - begin);
    }
  }
  const bool is_sync = result.id == sync_.leader;
  OnResult(result);
  if (is_sync) EndSync(result.result);
}

void BlockDevice::OnResult(const DiskEngine::Result& result) {
  CRASH_POINT("disk_after_result");
  const uint32_t index = static_cast<uint32_t>(result.id);
  Slot& slot = slots_[index];
  const bool stopping = services_->stopping(slot.queue);
  if (result.is_aside) engine_->Release(result, !stopping && services_->dma_allowed());
  if (!stopping && !services_->dma_allowed()) {
    if (result.is_aside) {
      Append(ready_, index);  // to be read again: there is no room to keep it
    } else {
      held_.push_back(result);
    }
    return;
  }
  const auto owed = [this] { return std::pair(failures_.OwesFlush(), failures_.OwesWrite()); };
  const auto before = owed();
  if (stopping) {
    // The driver gets no answer to this request.
    if (result.result < 0 && slot.request.MayReportWriteback(context_)) failures_.Failed();
    GiveBack(index, 0);
  } else {
    Continue(index, slot.request.OnResult(result.result, context_));
  }
  // Saved after the driver was told: if the process dies in between, the driver is told twice.
  if (owed() != before) SaveFailures();
}

void BlockDevice::ReleaseHeld() {
  // OnResult() may hold some of them back again.
  const size_t count = held_.size();
  for (size_t i = 0; i < count; ++i) {
    const DiskEngine::Result result = held_[i];
    OnResult(result);
  }
  held_.erase(held_.begin(), held_.begin() + count);
}

void BlockDevice::OnQueueStopping(uint32_t) {
  ReleaseHeld();
  DropWaitingOfStoppingQueues(ready_);
  DropWaitingOfStoppingQueues(paused_);
  DropWaitingOfStoppingQueues(sync_.later);
  DropWaitingOfStoppingQueues(errors_);
  services_->Publish();
}

void BlockDevice::DropWaitingOfStoppingQueues(SlotList& list) {
  uint32_t index = std::exchange(list.first, kNoSlot);
  while (index != kNoSlot) {
    const uint32_t next = slots_[index].next;
    if (services_->stopping(slots_[index].queue)) {
      GiveBack(index, 0);
    } else {
      Append(list, index);
    }
    index = next;
  }
}

uint32_t BlockDevice::in_flight() const {
  return engine_->in_flight() + (side_engine_ != nullptr ? side_engine_->in_flight() : 0);
}

bool BlockDevice::at_rest() const {
  const bool waits = ready_.first != kNoSlot || paused_.first != kNoSlot;
  return in_flight() == 0 && (!waits || !services_->dma_allowed());
}

void BlockDevice::LogFailure(const BlockRequest& request) {
  if (failures_logged_ == kMaxFailuresLogged) return;
  ++failures_logged_;
  LogError(
      absl::StrCat("disk: request of type ", request.type(), " at sector ", request.sector(), ": ",
                   strerror(request.error_number()),
                   failures_logged_ == kMaxFailuresLogged ? " (further ones are not logged)" : ""));
}

}  // namespace bulkhead::devices::virtio
