#include "base/guest_memory.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace bulkhead {

absl::StatusOr<GuestMemory> GuestMemory::Create(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.start < b.start; });
  uint64_t end_of_previous = 0;
  for (const Range& range : ranges) {
    const uint64_t size = range.mapping.size();
    if (size == 0 || range.start + size < range.start || range.start < end_of_previous) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "guest memory range 0x%x + 0x%x is empty, wraps or overlaps another", range.start, size));
    }
    end_of_previous = range.start + size;
  }
  return GuestMemory(std::move(ranges));
}

bool GuestMemory::Read(GuestAddress address, absl::Span<uint8_t> out) const {
  const uint8_t* host = HostPointer(address, out.size());
  if (host == nullptr) return false;
  if (!out.empty()) memcpy(out.data(), host, out.size());  // an empty span may be null
  return true;
}

bool GuestMemory::Write(GuestAddress address, absl::Span<const uint8_t> bytes) const {
  uint8_t* host = HostPointer(address, bytes.size());
  if (host == nullptr) return false;
  if (!bytes.empty()) memcpy(host, bytes.data(), bytes.size());
  return true;
}

}  // namespace bulkhead
