#include "devices/virtio_blk/direct_engine.h"

#include <string.h>

#include <algorithm>
#include <utility>

namespace bulkhead::devices::virtio {
namespace {

using Kind = FileOperation::Kind;

constexpr size_t kPageBytes = 4096;

// Copies the first `size` bytes that `buffers` hold to or from contiguous memory.
void Copy(absl::Span<const iovec> buffers, uint8_t* memory, size_t size, bool to_buffers) {
  for (const iovec& buffer : buffers) {
    const size_t part = std::min(size, buffer.iov_len);
    if (to_buffers) {
      memcpy(buffer.iov_base, memory, part);
    } else {
      memcpy(memory, buffer.iov_base, part);
    }
    memory += part;
    size -= part;
    if (size == 0) return;
  }
}

}  // namespace

DirectEngine::DirectEngine(std::unique_ptr<DiskEngine> inner, const DiskFile& disk,
                           uint32_t max_operations)
    : inner_(std::move(inner)),
      file_alignment_(disk.direct_alignment),
      memory_alignment_(disk.memory_alignment),
      bounces_(kBounceBuffers),
      // One more than can be in flight: ids are slots of requests.
      bounce_of_(max_operations + 1, kNone) {
  for (uint32_t i = 0; i < kBounceBuffers; ++i) free_bounces_.push_back(i);
}

bool DirectEngine::IsAligned(const FileOperation& operation) const {
  if (operation.kind != Kind::kRead && operation.kind != Kind::kWrite) return true;
  return std::all_of(operation.buffers.begin(), operation.buffers.end(), [this](const iovec& b) {
    return reinterpret_cast<uintptr_t>(b.iov_base) % memory_alignment_ == 0 &&
           b.iov_len % file_alignment_ == 0;
  });
}

void DirectEngine::Prepare(const FileOperation& operation, uint64_t id) {
  if (IsAligned(operation)) {
    inner_->Prepare(operation, id);
  } else if (!PrepareBounced(operation, id)) {
    waiting_.push_back({operation, id});
  }
}

bool DirectEngine::PrepareBounced(const FileOperation& operation, uint64_t id) {
  if (free_bounces_.empty()) return false;
  const uint32_t index = free_bounces_.back();
  Bounce& bounce = bounces_[index];
  if (bounce.memory == nullptr) {
    bounce.memory.reset(static_cast<uint8_t*>(aligned_alloc(kPageBytes, kBounceBytes)));
  }
  free_bounces_.pop_back();
  bounce_of_[id] = index;
  bounce.operation = operation;
  bounce.buffer = {bounce.memory.get(), std::min<size_t>(operation.length, kBounceBytes)};
  if (operation.kind == Kind::kWrite) {
    Copy(operation.buffers, bounce.memory.get(), bounce.buffer.iov_len, /*to_buffers=*/false);
  }
  FileOperation through = operation;
  through.buffers = absl::MakeConstSpan(&bounce.buffer, 1);
  through.length = bounce.buffer.iov_len;
  inner_->Prepare(through, id);
  ++bounced_;
  return true;
}

bool DirectEngine::Submit() {
  while (!waiting_.empty() && PrepareBounced(waiting_.front().operation, waiting_.front().id)) {
    waiting_.pop_front();
  }
  return inner_->Submit();
}

bool DirectEngine::Reap(Result& result) {
  if (!inner_->Reap(result)) return false;
  result.is_aside = false;
  const uint32_t index = bounce_of_[result.id];
  if (index == kNone) return true;
  result.is_aside = bounces_[index].operation.kind == Kind::kRead && result.result > 0;
  if (!result.is_aside) FreeBounce(result.id);
  return true;
}

void DirectEngine::Release(const Result& result, bool copy) {
  Bounce& bounce = bounces_[bounce_of_[result.id]];
  if (copy) {
    const size_t size = std::min<size_t>(result.result, bounce.buffer.iov_len);
    Copy(bounce.operation.buffers, bounce.memory.get(), size, /*to_buffers=*/true);
  }
  FreeBounce(result.id);
}

void DirectEngine::FreeBounce(uint64_t id) {
  free_bounces_.push_back(std::exchange(bounce_of_[id], kNone));
}

bool DirectEngine::Drain(absl::Duration timeout) {
  waiting_.clear();
  return inner_->Drain(timeout);
}

}  // namespace bulkhead::devices::virtio
