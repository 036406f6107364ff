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

const GuestMemory::Range* GuestMemory::Find(GuestAddress address) const {
  for (const Range& range : ranges_) {
    if (address >= range.start && address - range.start < range.mapping.size()) return &range;
  }
  return nullptr;
}

bool GuestMemory::Contains(GuestAddress address, uint64_t size_bytes) const {
  // Each step leaves a range behind, so this ends.
  while (const Range* range = Find(address)) {
    const uint64_t rest = range->mapping.size() - (address - range->start);
    if (size_bytes <= rest) return true;
    size_bytes -= rest;
    address += rest;
    if (address == 0) return false;  // wrapped
  }
  return false;
}

bool GuestMemory::has_adjoining_ranges() const {
  for (size_t i = 1; i < ranges_.size(); ++i) {
    if (ranges_[i - 1].start + ranges_[i - 1].mapping.size() == ranges_[i].start) return true;
  }
  return false;
}

bool GuestMemory::Read(GuestAddress address, absl::Span<uint8_t> out) const {
  return ForEachPart(address, out.size(), [&out](const uint8_t* host, uint64_t size_bytes) {
    if (size_bytes == 0) return;  // an empty span may be null
    memcpy(out.data(), host, size_bytes);
    out.remove_prefix(size_bytes);
  });
}

bool GuestMemory::Write(GuestAddress address, absl::Span<const uint8_t> bytes) const {
  return ForEachPart(address, bytes.size(), [&bytes](uint8_t* host, uint64_t size_bytes) {
    if (size_bytes == 0) return;
    memcpy(host, bytes.data(), size_bytes);
    bytes.remove_prefix(size_bytes);
  });
}

}  // namespace bulkhead
