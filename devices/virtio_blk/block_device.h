#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_DEVICE_H_

#include <stdint.h>
#include <sys/uio.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio_blk/block_counters.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/block_request.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/io_ring.h"

namespace bulkhead::devices::virtio {

struct BlockOptions {
  uint32_t queues = 1;
  uint32_t queue_size = 256;
  std::string serial = {};  // answer to get-id
  bool read_only = false;
};

// The block device (virtio 1.2, section 5.2) over the resource "disk", a file or block device.
// A doorbell's requests go to the kernel in one batch; results come back through the event loop,
// or at once where the page cache has the data. Requests are pooled: serving one allocates
// nothing.
class BlockDevice : public VirtioDevice {
 public:
  // Errors: InvalidArgument, naming the option.
  static absl::StatusOr<std::unique_ptr<BlockDevice>> Create(const BlockOptions& options);
  // Waits, for a bounded time, for what the kernel still has in hand.
  ~BlockDevice() override;

  VirtioIdentity Identify() const override;
  // Errors: the resource is missing or no disk; io_uring is not permitted.
  absl::Status Start(VirtioServices& services) override;
  uint64_t features() const override { return features_; }
  void OnFeatures(uint64_t features) override;
  void OnQueue(uint32_t queue) override;
  void OnQueueStopping(uint32_t queue) override;
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override;
  void WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) override;
  // The cache mode that the driver has chosen, the capacity that it knows, and whether a flush has
  // to fail. A successor that finds another capacity announces it.
  size_t SaveState(absl::Span<uint8_t> out) const override;
  absl::Status RestoreState(absl::Span<const uint8_t> state) override;
  // What is held back is in the queue: a successor does it again.
  bool at_rest() const override { return ring_->in_flight() == 0; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  // A chain in flight.
  struct Slot {
    uint32_t queue = 0;
    uint16_t head = 0;
    BlockRequest request;
  };

  static constexpr uint32_t kSavedBytes = 16;

  explicit BlockDevice(const BlockOptions& options);

  void FillConfig();
  void UpdateWriteThrough();
  absl::Span<iovec> Storage(uint32_t slot);
  void Begin(uint32_t slot, const DescriptorChain& chain);
  void Continue(uint32_t slot, BlockRequest::Step step);
  void Submit();
  void ReapResults();
  void OnResult(const IoRing::Result& result);
  // The result to go by: while a writeback failure is to be told, that of a flush is an error.
  int32_t WithWritebackFailure(const FileOperation& operation, int32_t result);
  void ReleaseHeld();
  void PublishCompleted();
  void LogFailure(const BlockRequest& request);

  const BlockOptions options_;
  VirtioServices* services_ = nullptr;
  DeviceServices* host_ = nullptr;
  DiskFile disk_;
  std::unique_ptr<IoRing> ring_;
  uint64_t features_ = 0;  // offered
  uint64_t negotiated_ = 0;
  BlockConfig config_ = {};
  BlockLimits limits_;

  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;  // the last one freed is used next: its memory is warm
  std::unique_ptr<iovec[]> storage_;  // storage_size_ a slot; pages are touched as needed
  size_t storage_size_ = 0;
  std::vector<uint8_t> completed_;  // by queue: 1 if chains wait to be published
  // Results that came while guest memory must not be touched.
  std::vector<IoRing::Result> held_;
  // Data that an earlier process wrote may be lost: the next flush, or durable write, has to fail.
  bool writeback_failed_ = false;
  uint32_t failures_logged_ = 0;
  BlockCounters counters_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_DEVICE_H_
