#include "devices/virtio_blk/block_request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include <algorithm>

namespace bulkhead::devices::virtio {
namespace {

// Without progress in between: more is an error of the file system.
constexpr uint8_t kMaxRetries = 16;

// Of a flush, while writes go on: what they leave is the fsync's to write.
constexpr int kMaxSweeps = 3;

// What write-zeroes writes where the file system cannot do it. Only ever read, so it takes no
// memory: all its pages are the kernel's zero page.
constexpr size_t kZerosSize = 1 << 20;
alignas(4096) uint8_t zeros[kZerosSize];

uint64_t TotalBytes(absl::Span<const iovec> buffers) {
  uint64_t total = 0;
  for (const iovec& buffer : buffers) total += buffer.iov_len;
  return total;
}

// Drops `bytes` from the front, which holds at least so many.
absl::Span<iovec> Advance(absl::Span<iovec> buffers, uint64_t bytes) {
  while (!buffers.empty() && bytes >= buffers[0].iov_len) {
    bytes -= buffers[0].iov_len;
    buffers.remove_prefix(1);
  }
  if (bytes != 0) {
    buffers[0].iov_base = static_cast<uint8_t*>(buffers[0].iov_base) + bytes;
    buffers[0].iov_len -= bytes;
  }
  return buffers;
}

// Copies [offset, offset + size) of what `buffers` hold, which is there.
void Gather(absl::Span<const iovec> buffers, uint64_t offset, void* out, size_t size) {
  uint8_t* to = static_cast<uint8_t*>(out);
  for (const iovec& buffer : buffers) {
    if (size == 0) return;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const size_t n = std::min<size_t>(size, buffer.iov_len - offset);
    memcpy(to, static_cast<const uint8_t*>(buffer.iov_base) + offset, n);
    to += n;
    size -= n;
    offset = 0;
  }
}

}  // namespace

BlockRequest::Step BlockRequest::Done(uint8_t status) {
  status_ = status;
  return Step::kDone;
}

BlockRequest::Step BlockRequest::Begin(const DescriptorChain& chain, const BlockContext& context) {
  status_ = kBlockStatusIoError;
  retries_ = 0;
  pauses_ = 0;
  error_number_ = 0;
  filled_ = 0;
  out_bytes_ = TotalBytes(chain.readable);
  in_bytes_ = TotalBytes(chain.writable);
  if (out_bytes_ < sizeof(header_) || in_bytes_ < 1) return Step::kMalformed;

  // The driver may cut header, data and status into descriptors as it likes (2.7.4.1). The header
  // is copied once, so that it stays what was checked.
  Gather(chain.readable, 0, &header_, sizeof(header_));
  data_out_ = Advance(chain.readable, sizeof(header_));
  out_bytes_ -= sizeof(header_);
  data_in_ = chain.writable;
  iovec& last = data_in_.back();  // no buffer is empty
  status_byte_ = static_cast<uint8_t*>(last.iov_base) + --last.iov_len;
  if (last.iov_len == 0) data_in_.remove_suffix(1);
  in_bytes_ -= 1;

  if (context.failures != nullptr) failures_reported_ = context.failures->Reported(is_flush());
  switch (header_.type) {
    case kBlockIn:
    case kBlockOut:
      return BeginTransfer(context);
    case kBlockFlushCommand:
      sweeps_left_ = kMaxSweeps;
      region_ = {};
      return Flush(context);
    case kBlockGetId:
      return AnswerId(context);
    case kBlockDiscardCommand:
      return context.discard ? BeginRanges(context) : Done(kBlockStatusUnsupported);
    case kBlockWriteZeroesCommand:
      return context.write_zeroes ? BeginRanges(context) : Done(kBlockStatusUnsupported);
    default:
      return Done(kBlockStatusUnsupported);
  }
}

BlockRequest::Step BlockRequest::BeginTransfer(const BlockContext& context) {
  if (is_write() && context.read_only) return Done(kBlockStatusIoError);
  remaining_ = is_write() ? data_out_ : data_in_;
  remaining_bytes_ = is_write() ? out_bytes_ : in_bytes_;
  if (remaining_bytes_ % kSectorSize != 0 || remaining_bytes_ > context.max_bytes) {
    return Done(kBlockStatusIoError);
  }
  const uint64_t sectors = remaining_bytes_ / kSectorSize;
  if (header_.sector > context.sectors || sectors > context.sectors - header_.sector) {
    return Done(kBlockStatusIoError);
  }
  if (sectors == 0) return Done(kBlockStatusOk);
  operation_ = {.kind = is_write() ? FileOperation::Kind::kWrite : FileOperation::Kind::kRead,
                .durable = is_write() && context.write_through,
                .offset = header_.sector * kSectorSize};
  return Transfer();
}

BlockRequest::Step BlockRequest::Transfer() {
  const size_t most = std::min(remaining_.size(), kMaxTransferBuffers);
  size_t count = 0;
  uint64_t bytes = 0;
  while (count < most && bytes < kMaxTransferBytes) bytes += remaining_[count++].iov_len;
  cut_bytes_ = bytes > kMaxTransferBytes ? bytes - kMaxTransferBytes : 0;
  remaining_[count - 1].iov_len -= cut_bytes_;
  operation_.buffers = remaining_.first(count);
  operation_.length = bytes - cut_bytes_;
  return Step::kOperate;
}

BlockRequest::Step BlockRequest::AnswerId(const BlockContext& context) {
  char id[kBlockIdSize] = {};
  context.id.copy(id, sizeof(id));
  size_t copied = 0;
  for (const iovec& buffer : data_in_) {
    const size_t n = std::min<size_t>(buffer.iov_len, sizeof(id) - copied);
    memcpy(buffer.iov_base, id + copied, n);
    copied += n;
  }
  filled_ = copied;
  return Done(kBlockStatusOk);
}

uint8_t BlockRequest::LoadRange(uint64_t index, const BlockContext& context,
                                BlockRange& range) const {
  Gather(data_out_, index * sizeof(range), &range, sizeof(range));
  asm volatile("" : "+m"(range) : : "memory");  // a snapshot: not to be read from the guest again
  const bool discard = header_.type == kBlockDiscardCommand;
  const uint32_t known_flags = discard ? 0 : kBlockRangeUnmap;
  if ((range.flags & ~known_flags) != 0) return kBlockStatusUnsupported;
  const uint32_t max_sectors =
      discard ? context.max_discard_sectors : context.max_write_zeroes_sectors;
  if (range.sectors > max_sectors || range.sector > context.sectors ||
      range.sectors > context.sectors - range.sector) {
    return kBlockStatusIoError;
  }
  return kBlockStatusOk;
}

BlockRequest::Step BlockRequest::BeginRanges(const BlockContext& context) {
  const uint64_t count = out_bytes_ / sizeof(BlockRange);
  if (count == 0 || out_bytes_ % sizeof(BlockRange) != 0 || count > context.max_ranges) {
    return Done(kBlockStatusIoError);
  }
  // All or nothing, as far as a driver is honest: NextRange() checks again what it uses.
  for (uint64_t i = 0; i < count; ++i) {
    BlockRange range;
    if (const uint8_t status = LoadRange(i, context, range); status != kBlockStatusOk) {
      return Done(status);
    }
  }
  next_range_ = 0;
  return NextRange(context);
}

BlockRequest::Step BlockRequest::NextRange(const BlockContext& context) {
  while (next_range_ < out_bytes_ / sizeof(BlockRange)) {
    BlockRange range;
    if (const uint8_t status = LoadRange(next_range_++, context, range); status != kBlockStatusOk) {
      return Done(status);
    }
    if (range.sectors == 0) continue;
    unmap_ = header_.type == kBlockDiscardCommand ||
             (context.may_unmap && (range.flags & kBlockRangeUnmap) != 0);
    operation_.offset = range.sector * kSectorSize;
    remaining_bytes_ = uint64_t{range.sectors} * kSectorSize;
    return NextPieceOfRange(context);
  }
  return context.write_through ? Sync(context) : Done(kBlockStatusOk);
}

BlockRequest::Step BlockRequest::NextPieceOfRange(const BlockContext& context) {
  if (remaining_bytes_ == 0) return NextRange(context);
  const bool discard = header_.type == kBlockDiscardCommand && context.is_block_device;
  operation_ = {
      .kind = discard ? FileOperation::Kind::kDiscard : FileOperation::Kind::kAllocate,
      .mode = FALLOC_FL_KEEP_SIZE | (unmap_ ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
      .offset = operation_.offset,
      .length = std::min(remaining_bytes_, kMaxRangeBytes)};
  return Step::kOperate;
}

BlockRequest::Step BlockRequest::WriteZeros() {
  zeros_ = {zeros, std::min<uint64_t>(remaining_bytes_, kZerosSize)};
  operation_.kind = FileOperation::Kind::kWrite;
  operation_.length = zeros_.iov_len;
  operation_.buffers = absl::MakeConstSpan(&zeros_, 1);
  return Step::kOperate;
}

BlockRequest::Step BlockRequest::Flush(const BlockContext& context) {
  if (context.dirty == nullptr || !context.dirty->is_heavy()) return Sync(context);
  if (!context.dirty->Find(region_.offset + region_.length, region_)) {
    region_ = {};
    if (--sweeps_left_ == 0 || !context.dirty->Find(0, region_)) return Sync(context);
  }
  operation_ = {
      .kind = FileOperation::Kind::kSyncRange, .offset = region_.offset, .length = region_.length};
  return Step::kOperate;
}

BlockRequest::Step BlockRequest::Sync(const BlockContext& context) {
  if (context.dirty != nullptr) context.dirty->SyncBegins();
  operation_ = {.kind = FileOperation::Kind::kSync};
  return Step::kOperate;
}

BlockRequest::Step BlockRequest::OnResult(int32_t result, const BlockContext& context) {
  if (result == -EINTR && ++retries_ <= kMaxRetries) return Step::kOperate;
  // io_uring needed a worker thread, and the kernel could start none (a limit of processes). The
  // operation has not begun.
  if (result == -ECANCELED && ++pauses_ <= kMaxPauses) return Step::kOperateLater;
  // The file cannot do it without waiting. A worker can wait: its EAGAIN is an error.
  if (result == -EAGAIN && !operation_.blocking) {
    operation_.blocking = true;
    return Step::kOperate;
  }
  if (context.hold_errors) {
    error_number_ = ErrorToHold(result, context);
    if (error_number_ != 0) return Step::kHold;
  }
  switch (operation_.kind) {
    case FileOperation::Kind::kAllocate:
    case FileOperation::Kind::kDiscard:
      return OnRangeResult(result, context);
    case FileOperation::Kind::kSyncRange:
    case FileOperation::Kind::kSync:
      return OnSyncResult(result, context);
    case FileOperation::Kind::kRead:
    case FileOperation::Kind::kWrite:
      return OnTransferResult(result, context);
  }
  return Done(kBlockStatusIoError);
}

int BlockRequest::ErrorToHold(int32_t result, const BlockContext& context) const {
  // The kernel has dropped what it could not write back, and reports that once: the driver has to
  // know.
  if (MayReportWriteback(context)) return 0;
  const bool transfers = !operation_.buffers.empty();
  if (result == 0 && transfers) return EIO;  // the file is shorter than it was
  return result == -ENOSPC || result == -EDQUOT || result == -EIO ? -result : 0;
}

BlockRequest::Step BlockRequest::OnSyncResult(int32_t result, const BlockContext& context) {
  if (operation_.kind == FileOperation::Kind::kSyncRange) {
    if (result == 0) {
      context.dirty->Synced(region_);
      return Flush(context);
    }
    // A file that does not know it is synced as a whole.
    if (result == -EINVAL || result == -ESPIPE || result == -EOPNOTSUPP || result == -ENOSYS) {
      return Sync(context);
    }
  }
  return DoneDurably(result, context);
}

bool BlockRequest::MayReportWriteback(const BlockContext& context) const {
  switch (operation_.kind) {
    case FileOperation::Kind::kSync:
    case FileOperation::Kind::kSyncRange:
      return true;
    case FileOperation::Kind::kWrite:
      return operation_.durable && !context.is_direct;
    default:
      return false;
  }
}

BlockRequest::Step BlockRequest::DoneDurably(int32_t result, const BlockContext& context) {
  if (context.failures != nullptr) {
    if (result < 0 && MayReportWriteback(context)) context.failures->Failed();
    if (result >= 0 && context.failures->count() != failures_reported_) result = -EIO;
    if (result < 0) context.failures->Report(is_flush());
  }
  if (result >= 0) return Done(kBlockStatusOk);
  error_number_ = -result;
  return Done(kBlockStatusIoError);
}

BlockRequest::Step BlockRequest::OnRangeResult(int32_t result, const BlockContext& context) {
  if (result == -EOPNOTSUPP || result == -EINVAL) {
    // The file system or device cannot, or not at this alignment. A discard is a hint: it may do
    // nothing. Zeros can be written.
    return header_.type == kBlockDiscardCommand ? NextRange(context) : WriteZeros();
  }
  if (result < 0) {
    error_number_ = -result;
    return Done(kBlockStatusIoError);
  }
  retries_ = 0;
  pauses_ = 0;
  remaining_bytes_ -= operation_.length;
  operation_.offset += operation_.length;
  return NextPieceOfRange(context);
}

// A transfer of data or of zeros, perhaps a part of it only.
BlockRequest::Step BlockRequest::OnTransferResult(int32_t result, const BlockContext& context) {
  if (result < 0 && operation_.durable) return DoneDurably(result, context);
  if (result < 0) {
    error_number_ = -result;
    return Done(kBlockStatusIoError);
  }
  // Nothing at all: the file is shorter than it was.
  const uint64_t moved = static_cast<uint32_t>(result);
  if (moved == 0 || moved > operation_.length) {
    error_number_ = EIO;
    return Done(kBlockStatusIoError);
  }
  if (operation_.kind == FileOperation::Kind::kWrite && !operation_.durable && !context.is_direct &&
      context.dirty != nullptr) {
    context.dirty->Wrote(operation_.offset, moved);
  }
  retries_ = 0;
  pauses_ = 0;
  remaining_bytes_ -= moved;
  operation_.offset += moved;
  operation_.blocking = false;
  if (header_.type == kBlockWriteZeroesCommand) {
    return remaining_bytes_ == 0 ? NextRange(context) : WriteZeros();
  }
  if (remaining_bytes_ == 0) {
    if (!is_write()) filled_ = in_bytes_;
    return operation_.durable ? DoneDurably(0, context) : Done(kBlockStatusOk);
  }
  remaining_[operation_.buffers.size() - 1].iov_len += cut_bytes_;
  remaining_ = Advance(remaining_, moved);
  return Transfer();
}

uint32_t BlockRequest::Finish() {
  // Last, after all data: with this byte the answer is complete. (The used ring's index, which
  // orders it for the driver, is stored later, with release.)
  *static_cast<volatile uint8_t*>(status_byte_) = status_;
  // The used length counts bytes from the start without gaps (2.7.8.2): the status byte is one
  // of them only if the data before it was written.
  const uint64_t written = filled_ == in_bytes_ ? filled_ + 1 : filled_;
  return static_cast<uint32_t>(std::min<uint64_t>(written, UINT32_MAX));
}

}  // namespace bulkhead::devices::virtio
