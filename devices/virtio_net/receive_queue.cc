#include "devices/virtio_net/receive_queue.h"

#include <string.h>

#include <algorithm>

namespace bulkhead::devices::virtio {
namespace {

// Chains of one buffer fill the queue once; those of many buffers wait in the driver's ring.
constexpr size_t kStorages = 4;

// Calls `visit` with each part of [offset, offset + size) of `buffers`, in order.
void ForEachPart(const iovec* buffers, uint64_t offset, uint64_t size,
                 absl::FunctionRef<void(uint8_t* data, size_t bytes)> visit) {
  for (; size > 0; ++buffers) {
    if (offset >= buffers->iov_len) {
      offset -= buffers->iov_len;
      continue;
    }
    const size_t part = std::min<uint64_t>(buffers->iov_len - offset, size);
    visit(static_cast<uint8_t*>(buffers->iov_base) + offset, part);
    offset = 0;
    size -= part;
  }
}

}  // namespace

ReceiveQueue::ReceiveQueue(size_t storage_size)
    : storage_size_(storage_size), buffers_(kStorages * storage_size) {}

absl::Span<iovec> ReceiveQueue::Room() {
  if (buffers_.size() - end_ < storage_size_ && begin_ > 0) {
    std::copy(buffers_.begin() + begin_, buffers_.begin() + end_, buffers_.begin());
    end_ -= begin_;
    begin_ = 0;
  }
  if (buffers_.size() - end_ < storage_size_) return {};
  return absl::MakeSpan(&buffers_[end_], storage_size_);
}

bool ReceiveQueue::Add(const DescriptorChain& chain) {
  uint64_t bytes = 0;
  for (const iovec& buffer : chain.writable) bytes += buffer.iov_len;
  if (bytes == 0) return false;
  std::copy(chain.writable.begin(), chain.writable.end(), buffers_.begin() + end_);
  end_ += chain.writable.size();
  chains_.push_back({chain.head, static_cast<uint32_t>(chain.writable.size()), bytes});
  bytes_ += bytes;
  return true;
}

absl::Span<const iovec> ReceiveQueue::Buffers(uint64_t wanted, bool mergeable, size_t max_buffers,
                                              uint64_t& bytes) const {
  bytes = 0;
  if (chains_.empty()) return {};
  const size_t limit = std::min(mergeable ? end_ - begin_ : chains_.front().buffers, max_buffers);
  size_t count = 0;
  while (count < limit && bytes < wanted) bytes += buffers_[begin_ + count++].iov_len;
  return absl::MakeConstSpan(&buffers_[begin_], count);
}

void ReceiveQueue::Read(uint64_t offset, absl::Span<uint8_t> out) const {
  uint8_t* next = out.data();
  ForEachPart(&buffers_[begin_], offset, out.size(), [&](const uint8_t* data, size_t bytes) {
    memcpy(next, data, bytes);
    next += bytes;
  });
}

void ReceiveQueue::Write(uint64_t offset, absl::Span<const uint8_t> bytes) {
  const uint8_t* next = bytes.data();
  ForEachPart(&buffers_[begin_], offset, bytes.size(), [&](uint8_t* data, size_t part) {
    memcpy(data, next, part);
    next += part;
  });
}

uint32_t ReceiveQueue::ChainsFor(uint64_t size) const {
  uint32_t count = 0;
  uint64_t bytes = 0;
  while (bytes < size) bytes += chains_[count++].bytes;
  return count;
}

void ReceiveQueue::Take(uint64_t size,
                        absl::FunctionRef<void(uint16_t head, uint32_t bytes)> give_back) {
  while (size > 0) {
    const Chain chain = chains_.front();
    chains_.pop_front();
    begin_ += chain.buffers;
    bytes_ -= chain.bytes;
    const uint64_t used = std::min(size, chain.bytes);
    give_back(chain.head, static_cast<uint32_t>(used));
    size -= used;
  }
  if (chains_.empty()) begin_ = end_ = 0;
}

void ReceiveQueue::Clear(absl::FunctionRef<void(uint16_t head)> give_back) {
  for (const Chain& chain : chains_) give_back(chain.head);
  chains_.clear();
  begin_ = end_ = 0;
  bytes_ = 0;
}

}  // namespace bulkhead::devices::virtio
