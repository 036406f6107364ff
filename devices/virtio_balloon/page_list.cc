#include "devices/virtio_balloon/page_list.h"

#include <string.h>

#include <algorithm>

namespace bulkhead::devices::virtio {

PageList::PageList() {
  numbers_.reserve(kMaxPages);
  runs_.reserve(kMaxPages);
}

PageList::Runs PageList::Read(absl::Span<const iovec> request, const GuestMemory& memory) {
  numbers_.resize(kMaxPages);
  runs_.clear();
  uint64_t offered = 0;
  size_t taken = 0;  // bytes; a number may lie across two buffers
  uint8_t* const bytes = reinterpret_cast<uint8_t*>(numbers_.data());
  for (const iovec& buffer : request) {
    const size_t part = std::min(buffer.iov_len, kMaxPages * sizeof(uint32_t) - taken);
    memcpy(bytes + taken, buffer.iov_base, part);
    taken += part;
    offered += buffer.iov_len;
  }
  const size_t count = taken / sizeof(uint32_t);
  numbers_.resize(count);
  std::sort(numbers_.begin(), numbers_.end());
  numbers_.erase(std::unique(numbers_.begin(), numbers_.end()), numbers_.end());

  Runs result;
  result.left_out = (offered + sizeof(uint32_t) - 1) / sizeof(uint32_t) - count;
  for (const uint32_t number : numbers_) {
    const GuestAddress page = number * kBalloonPage;
    if (!memory.Contains(page, kBalloonPage)) {
      ++result.left_out;
      continue;
    }
    ++result.pages;
    if (!runs_.empty() && runs_.back().start + runs_.back().size_bytes == page) {
      runs_.back().size_bytes += kBalloonPage;
    } else {
      runs_.push_back({page, kBalloonPage});
    }
  }
  result.runs = runs_;
  return result;
}

}  // namespace bulkhead::devices::virtio
