#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_DIRECT_ENGINE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_DIRECT_ENGINE_H_

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>

#include <deque>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "devices/virtio_blk/disk_engine.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/file_operation.h"

namespace bulkhead::devices::virtio {

// An engine for a file with direct I/O, over another engine. The kernel accepts only aligned
// buffers. An operation whose buffers are not aligned goes through one of a few buffers of our own,
// which may hold only a part of it: then the result is a short transfer. Positions in the file are
// not aligned here: blk_size demands that of the driver, and the kernel refuses others.
// Thread-compatible.
class DirectEngine : public DiskEngine {
 public:
  static constexpr size_t kBounceBytes = 128 << 10;
  static constexpr uint32_t kBounceBuffers = 16;

  // For up to `max_operations` at a time, as `inner`.
  DirectEngine(std::unique_ptr<DiskEngine> inner, const DiskFile& disk, uint32_t max_operations);

  void Prepare(const FileOperation& operation, uint64_t id) override;
  bool Submit() override;
  bool Reap(Result& result) override;
  void Release(const Result& result, bool copy) override;
  bool Drain(absl::Duration timeout) override;
  uint32_t in_flight() const override {
    return inner_->in_flight() + static_cast<uint32_t>(waiting_.size());
  }
  uint32_t max_threads() const override { return inner_->max_threads(); }
  bool has_waiting() const override { return !waiting_.empty() && !free_bounces_.empty(); }
  bool has_results() const override { return inner_->has_results(); }
  int fd() const override { return inner_->fd(); }

  // Operations that went through a buffer of our own.
  uint64_t bounced() const { return bounced_; }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Waiting {
    FileOperation operation;
    uint64_t id;
  };
  struct Free {
    void operator()(uint8_t* memory) const { free(memory); }
  };
  struct Bounce {
    std::unique_ptr<uint8_t, Free> memory;  // once it was needed
    iovec buffer;
    FileOperation operation;  // the driver's
  };

  bool IsAligned(const FileOperation& operation) const;
  void FreeBounce(uint64_t id);
  // False: no buffer is free.
  bool PrepareBounced(const FileOperation& operation, uint64_t id);

  const std::unique_ptr<DiskEngine> inner_;
  const uint32_t file_alignment_;
  const uint32_t memory_alignment_;
  std::vector<Bounce> bounces_;
  std::vector<uint32_t> free_bounces_;
  std::vector<uint32_t> bounce_of_;  // by operation id: which buffer, or kNone
  std::deque<Waiting> waiting_;      // for a buffer
  uint64_t bounced_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_DIRECT_ENGINE_H_
