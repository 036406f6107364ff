#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_REQUEST_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_REQUEST_H_

#include <stdint.h>
#include <sys/uio.h>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "devices/virtio/virtqueue.h"
#include "devices/virtio_blk/block_layout.h"

namespace bulkhead::devices::virtio {

// What requests are checked against.
struct BlockLimits {
  uint64_t sectors = 0;
  bool read_only = false;
  bool discard = false;        // negotiated
  bool write_zeroes = false;   // negotiated
  bool write_through = false;  // a write is durable when it completes
  uint64_t max_request_bytes = 0;
  uint32_t max_ranges = 0;  // of one discard or write-zeroes command
  uint32_t max_discard_sectors = 0;
  uint32_t max_write_zeroes_sectors = 0;
  absl::string_view id;  // answer to get-id: at most kBlockIdSize bytes
};

// One operation on the disk's file.
struct FileOperation {
  enum class Kind : uint8_t {
    kRead,
    kWrite,
    kSync,      // fdatasync(2)
    kAllocate,  // fallocate(2) with `mode`
  };
  Kind kind = Kind::kSync;
  bool durable = false;  // kWrite: data is on the medium when it completes
  int mode = 0;
  uint64_t offset = 0;
  uint64_t length = 0;                   // kAllocate only
  absl::Span<const iovec> buffers = {};  // kRead and kWrite; stay valid until its end
};

// One request of the driver, as a sequence of file operations. Pure: tells what to do next, is
// told the result, and at the end leaves the answer in guest memory. Guest memory may change
// under it at any time. Thread-compatible; allocates nothing.
class BlockRequest {
 public:
  enum class Step {
    kOperate,    // carry out operation(), then call OnResult()
    kDone,       // call Finish()
    kMalformed,  // the chain has no room for the header or the status
  };

  // Starts with a chain; its spans must stay valid, and are changed.
  Step Begin(const DescriptorChain& chain, const BlockLimits& limits);
  const FileOperation& operation() const { return operation_; }
  // `result` as io_uring has it: bytes moved, or -errno. `limits` as in Begin().
  Step OnResult(int32_t result, const BlockLimits& limits);

  // Writes the status byte. Returns the length for the used ring.
  uint32_t Finish();

  uint8_t status() const { return status_; }
  uint32_t type() const { return header_.type; }
  uint64_t sector() const { return header_.sector; }
  // Of a read's or write's data.
  uint64_t data_bytes() const { return is_write() ? out_bytes_ : in_bytes_; }
  // errno of the operation that failed the request, or 0.
  int error_number() const { return error_number_; }

 private:
  Step Done(uint8_t status);
  Step BeginTransfer(const BlockLimits& limits);
  Step AnswerId(const BlockLimits& limits);
  Step BeginRanges(const BlockLimits& limits);
  // Reads and checks range number `index`. Returns a status.
  uint8_t LoadRange(uint64_t index, const BlockLimits& limits, BlockRange& range) const;
  Step NextRange(const BlockLimits& limits);
  void WriteZeros();
  void Sync();
  bool is_write() const { return header_.type == kBlockOut; }

  BlockHeader header_;
  absl::Span<iovec> data_out_;  // readable, behind the header
  absl::Span<iovec> data_in_;   // writable, before the status byte
  uint64_t out_bytes_ = 0;
  uint64_t in_bytes_ = 0;
  uint64_t filled_ = 0;  // of in_bytes_, from the start
  uint8_t* status_byte_ = nullptr;
  uint8_t status_ = 0;
  uint8_t retries_ = 0;
  int error_number_ = 0;

  FileOperation operation_;
  absl::Span<iovec> remaining_;  // of a transfer
  uint64_t remaining_bytes_ = 0;
  uint64_t next_range_ = 0;  // of a discard or write-zeroes command
  iovec zeros_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_REQUEST_H_
