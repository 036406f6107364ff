#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_REQUEST_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_REQUEST_H_

#include <stdint.h>
#include <sys/uio.h>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "devices/virtio/virtqueue.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/dirty_map.h"
#include "devices/virtio_blk/file_operation.h"
#include "devices/virtio_blk/writeback_failures.h"

namespace bulkhead::devices::virtio {

// What a request needs to know of its disk. The same for all requests between two resets, but for
// `write_through`, which the driver may change.
struct BlockContext {
  // The disk.
  uint64_t sectors = 0;
  bool read_only = false;
  bool is_block_device = false;
  bool is_direct = false;  // writes leave no dirty pages
  absl::string_view id;    // answer to get-id: at most kBlockIdSize bytes

  // The limits of one request, as the driver was told.
  uint64_t max_bytes = 0;
  uint32_t max_ranges = 0;  // of a discard or write-zeroes command
  uint32_t max_discard_sectors = 0;
  uint32_t max_write_zeroes_sectors = 0;
  bool may_unmap = true;  // zeroes may give space back, if the driver asks for it

  // What the driver has negotiated, and the cache mode that follows from it.
  bool discard = false;
  bool write_zeroes = false;
  bool write_through = false;  // a write is durable when it completes

  // Errors that the operator can mend hold the request, instead of being reported to the driver.
  bool hold_errors = false;

  // What requests leave for later ones.
  DirtyMap* dirty = nullptr;  // of the file; told of writes, asked by flushes
  WritebackFailures* failures = nullptr;
};

// One request of the driver, as a sequence of file operations of bounded size: an operation neither
// holds up the thread that submits it, nor delays the death of the process for long. Pure: says
// which operation comes next, takes its result, and at the end writes the answer into guest memory.
// Guest memory may change at any time. Thread-compatible; allocates nothing.
class BlockRequest {
 public:
  // Of one read or write. Linux's drivers ask for 1280 KiB at most by default.
  static constexpr uint64_t kMaxTransferBytes = 2 << 20;
  static constexpr size_t kMaxTransferBuffers = 1024;  // the kernel takes no more (UIO_MAXIOV)
  // Of one discard, or of zeroes that the file system may have to write.
  static constexpr uint64_t kMaxRangeBytes = 64 << 20;
  // How often in a row an operation is put off for lack of threads: with pauses of 5 ms for a
  // minute. Then the request fails, which the guest would take for an error of the disk.
  static constexpr uint32_t kMaxPauses = 12'000;

  enum class Step {
    kOperate,       // carry out operation(), then call OnResult()
    kOperateLater,  // the same after a pause: the host is short of threads
    kHold,          // the same once the operator has mended error_number()
    kDone,          // call Finish()
    kMalformed,     // the chain has no room for the header or the status
  };

  // Starts with a chain; its spans must stay valid, and are changed.
  Step Begin(const DescriptorChain& chain, const BlockContext& context);
  const FileOperation& operation() const { return operation_; }
  // `result` as io_uring has it: bytes moved, or -errno. `context` as in Begin().
  Step OnResult(int32_t result, const BlockContext& context);

  // Writes the status byte. Returns the length for the used ring.
  uint32_t Finish();

  uint8_t status() const { return status_; }
  uint32_t type() const { return header_.type; }
  uint64_t sector() const { return header_.sector; }
  // Of a read's or write's data.
  uint64_t data_bytes() const { return is_write() ? out_bytes_ : in_bytes_; }
  // The same, and 0 of other requests.
  uint64_t moved_bytes() const { return header_.type == kBlockIn || is_write() ? data_bytes() : 0; }
  // operation() writes zeroes that the file system cannot make by itself.
  bool writes_zeros() const {
    return header_.type == kBlockWriteZeroesCommand &&
           operation_.kind == FileOperation::Kind::kWrite;
  }
  // The kernel may report a failed writeback in the result of operation().
  bool MayReportWriteback(const BlockContext& context) const;
  // errno of the operation that failed the request or holds it, or 0.
  int error_number() const { return error_number_; }

 private:
  Step Done(uint8_t status);
  // What `result` holds the request for; 0: nothing.
  int ErrorToHold(int32_t result, const BlockContext& context) const;
  Step BeginTransfer(const BlockContext& context);
  Step AnswerId(const BlockContext& context);
  Step BeginRanges(const BlockContext& context);
  // Reads and checks range number `index`. Returns a status.
  uint8_t LoadRange(uint64_t index, const BlockContext& context, BlockRange& range) const;
  Step NextRange(const BlockContext& context);
  Step NextPieceOfRange(const BlockContext& context);
  Step OnRangeResult(int32_t result, const BlockContext& context);
  Step OnTransferResult(int32_t result, const BlockContext& context);
  Step Transfer();
  Step WriteZeros();
  Step Flush(const BlockContext& context);
  Step Sync(const BlockContext& context);
  Step OnSyncResult(int32_t result, const BlockContext& context);
  // The result of an operation by which the request promises that data is on the medium.
  Step DoneDurably(int32_t result, const BlockContext& context);
  bool is_flush() const { return header_.type == kBlockFlushCommand; }
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
  uint32_t pauses_ = 0;
  int error_number_ = 0;

  FileOperation operation_;
  absl::Span<iovec> remaining_;   // of a transfer
  uint64_t remaining_bytes_ = 0;  // of a transfer or a range
  uint64_t cut_bytes_ = 0;        // taken off the last buffer of operation_
  uint64_t next_range_ = 0;       // of a discard or write-zeroes command
  bool unmap_ = false;            // the current range: give its space back
  iovec zeros_;
  DirtyMap::Region region_;  // of a flush
  int sweeps_left_ = 0;
  uint64_t failures_reported_ = 0;  // as it began
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_REQUEST_H_
