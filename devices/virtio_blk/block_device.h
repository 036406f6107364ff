#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_DEVICE_H_

#include <stdint.h>
#include <sys/uio.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/limited_queues.h"
#include "devices/host/rate_limiter.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio_blk/block_counters.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/block_request.h"
#include "devices/virtio_blk/dirty_map.h"
#include "devices/virtio_blk/disk_engine.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/engine_choice.h"
#include "devices/virtio_blk/writeback_failures.h"

namespace bulkhead::devices::virtio {

struct BlockOptions {
  uint32_t queues = 1;
  uint32_t queue_size = 256;
  std::string serial = {};  // answer to get-id
  bool read_only = false;
  bool discard = true;  // offered: what the guest discards, or zeroes, gives its space back
  RateLimits limits = {};
  // Requests that fail for lack of space, or by an error of the medium, wait until the operator has
  // resumed the VM (proto/error_link.h); the resource "errors" is needed for that.
  bool pause_on_error = false;
  EngineKind engine = EngineKind::kAuto;
  // This thread sleeps while another one writes, instead of polling: for few processors.
  bool await_writes = false;
  // The process is this disk's alone: with its engine it has all the rings that it needs.
  bool forbid_new_rings = false;
};

// The block device (virtio 1.2, section 5.2) over the resource "disk", a file or block device.
// Operations go to the engine in batches, in the order in which they become ready; results come
// back through the event loop, or at once where the page cache has the data. A batch and a turn of
// the loop are bounded, whatever the driver asks for: registers, heartbeats and other queues come
// in between. Requests are pooled: serving one allocates nothing.
class BlockDevice : public VirtioDevice {
 public:
  // Errors: InvalidArgument, naming the option.
  static absl::StatusOr<std::unique_ptr<BlockDevice>> Create(const BlockOptions& options);
  // Tests give an engine of their own.
  using EngineFactory =
      std::function<absl::StatusOr<ChosenEngine>(const DiskFile& disk, uint32_t max_operations)>;
  void set_engine_factory(EngineFactory factory) { engine_factory_ = std::move(factory); }
  // Waits, for a bounded time, for what the kernel still has in hand.
  ~BlockDevice() override;

  VirtioIdentity Identify() const override;
  // Errors: the resource is missing or no disk; ResourceExhausted (its file system does not
  // answer); the engine's.
  absl::Status Start(VirtioServices& services) override;
  uint64_t features() const override { return features_; }
  void OnFeatures(uint64_t features) override;
  void BeginTurn(uint32_t queue) override;
  // There is a slot for each chain: it is empty only when the turn has started its bytes, or while
  // a rate limit holds.
  absl::Span<iovec> Room(uint32_t queue) override;
  void OnChain(uint32_t queue, const DescriptorChain& chain) override;
  void EndBatch(uint32_t queue) override;
  bool HasResults() const override;
  void TakeResults() override;
  void OnQueueStopping(uint32_t queue) override;
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override;
  void WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) override;
  // The cache mode that the driver has chosen, the capacity that it knows, and what it is to be
  // told of failed writeback. A successor that finds another capacity announces it.
  size_t SaveState(absl::Span<uint8_t> out) const override;
  absl::Status RestoreState(absl::Span<const uint8_t> state) override;
  // What is held back is in the queue: a successor does it again.
  bool at_rest() const override;
  bool dma_in_flight() const override { return in_flight() != 0; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  static constexpr uint32_t kNoSlot = ~uint32_t{0};
  // A chain in flight.
  struct Slot {
    uint32_t queue = 0;
    uint16_t head = 0;
    uint32_t next = kNoSlot;                    // in a SlotList
    absl::Time begin = absl::InfiniteFuture();  // of a direct write
    BlockRequest request;
  };
  struct SlotList {
    uint32_t first = kNoSlot;
    uint32_t last = kNoSlot;
  };
  // The sync of the file that is in the engine. It answers all flushes that wait for one by the
  // time it starts; what comes later waits for the next.
  struct Sync {
    uint32_t leader = kNoSlot;  // the one whose operation it is
    bool started = false;
    SlotList followers;
    SlotList later;
  };

  static constexpr uint32_t kSavedBytes = 16;

  explicit BlockDevice(const BlockOptions& options);

  void FillConfig();
  void UpdateWriteThrough();
  absl::Status StartEngine(uint32_t max_operations);
  void Continue(uint32_t slot, BlockRequest::Step step);
  void GiveBack(uint32_t slot, uint32_t written_bytes);
  void Append(SlotList& list, uint32_t slot);
  // Starts what is ready, in batches, and deals with what ends at once.
  void RunReady();
  int64_t PrepareBatch();
  // True: another one's sync answers this one, or will.
  bool JoinSync(uint32_t slot);
  void EndSync(int32_t result);
  DiskEngine& EngineFor(Slot& slot);
  void DropWaitingOfStoppingQueues(SlotList& list);
  bool Submit();
  void RetrySoon();
  void SubmitWaiting();
  bool awaits_side() const;
  void ReapResults();
  void OnReaped(const DiskEngine::Result& result, bool is_side);
  void OnResult(const DiskEngine::Result& result);
  void ReleaseHeld();
  void OnEngine();
  void OnRetryTimer();
  absl::Status StartErrorLink();
  void Hold(uint32_t slot);
  void OnErrorLink();
  void AnswerErrors();
  void ServeNextLimited();
  uint32_t in_flight() const;
  void LogFailure(const BlockRequest& request);
  void SaveFailures();

  const BlockOptions options_;
  VirtioServices* services_ = nullptr;
  DeviceServices* host_ = nullptr;
  DiskFile disk_;
  EngineFactory engine_factory_;
  std::unique_ptr<DiskEngine> engine_;
  std::unique_ptr<DiskEngine> side_engine_;  // see CreateSideEngine(); may be nullptr
  EngineChoice choice_;                      // for direct writes, where there are both
  bool side_is_late_ = false;  // it had no result within kMaxAwait, and has had none since
  bool is_io_uring_ = false;
  UniqueFd retry_timer_;  // the host was short of something: Submit() and paused_ again
  bool retries_soon_ = false;
  std::optional<DirtyMap> dirty_;
  uint64_t features_ = 0;  // offered
  uint64_t negotiated_ = 0;
  BlockConfig config_ = {};
  BlockContext context_;

  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;  // the last one freed is used next: its memory is warm
  std::unique_ptr<iovec[]> storage_;  // storage_size_ a slot; pages are touched as needed
  size_t storage_size_ = 0;
  LimitedQueues limits_;
  RateDebt own_debt_ = {};     // where the host has no durable memory
  int64_t turn_bytes_ = 0;     // what this turn of the loop may still start
  uint32_t batch_chains_ = 0;  // taken since RunReady()
  // Results that came while guest memory must not be touched.
  std::vector<DiskEngine::Result> held_;
  SlotList ready_;   // their next operation waits for a batch
  SlotList paused_;  // and theirs for the retry timer first
  Sync sync_;
  SlotList errors_;  // and theirs for error_link_
  // The operator's order. It waits until guest memory may be touched.
  bool answers_errors_ = false;
  UniqueFd error_link_;
  WritebackFailures failures_;
  uint32_t failures_logged_ = 0;
  BlockCounters counters_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_DEVICE_H_
