#ifndef BULKHEAD_BASE_GUEST_MEMORY_H_
#define BULKHEAD_BASE_GUEST_MEMORY_H_

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/memory_mapping.h"

namespace bulkhead {

// A guest-physical address in bytes.
using GuestAddress = uint64_t;

// Guest RAM in this process: a table of mapped ranges, and the one checked way to access them.
// Addresses and lengths come from the guest: an access outside the table is an error value, never a
// crash. The guest may change the bytes at any time: read each field once, into a local variable.
//
// Immutable after Create(), so thread-safe; the bytes themselves are shared with the guest.
class GuestMemory {
 public:
  struct Range {
    GuestAddress start = 0;
    MemoryMapping mapping;  // its size is the range's size
  };

  // Errors: InvalidArgument (a range is empty, wraps, or overlaps another).
  static absl::StatusOr<GuestMemory> Create(std::vector<Range> ranges);

  GuestMemory() = default;
  GuestMemory(GuestMemory&&) = default;
  GuestMemory& operator=(GuestMemory&&) = default;

  // The bytes [address, address + size_bytes) in this process; nullptr unless one range holds all
  // of them. `size_bytes` may be 0 for an address within a range.
  uint8_t* HostPointer(GuestAddress address, uint64_t size_bytes) const {
    for (const Range& range : ranges_) {
      const uint64_t offset = address - range.start;
      if (address >= range.start && offset < range.mapping.size()) {
        if (size_bytes > range.mapping.size() - offset) return nullptr;
        return range.mapping.data() + offset;
      }
    }
    return nullptr;
  }

  // Calls `on_part(uint8_t* host, uint64_t size_bytes)` for each part of [address, address +
  // size_bytes) that is contiguous in this process, in order. There is one part, or more if the
  // bytes cross into an adjoining range: a guest does not know where ranges end. False: a byte is
  // outside the table, and nothing was called.
  template <typename OnPart>
  bool ForEachPart(GuestAddress address, uint64_t size_bytes, OnPart&& on_part) const {
    if (uint8_t* host = HostPointer(address, size_bytes); host != nullptr) {
      on_part(host, size_bytes);
      return true;
    }
    if (!Contains(address, size_bytes)) return false;
    while (size_bytes != 0) {
      const Range& range = *Find(address);
      const uint64_t offset = address - range.start;
      const uint64_t part = std::min<uint64_t>(size_bytes, range.mapping.size() - offset);
      on_part(range.mapping.data() + offset, part);
      address += part;
      size_bytes -= part;
    }
    return true;
  }

  // Whether one range, or several adjoining ones, hold all of these bytes.
  bool Contains(GuestAddress address, uint64_t size_bytes) const;
  // Whether any range begins where another one ends.
  bool has_adjoining_ranges() const;

  // Copy from and to guest memory. False: a byte is outside the table, and nothing was copied.
  bool Read(GuestAddress address, absl::Span<uint8_t> out) const;
  bool Write(GuestAddress address, absl::Span<const uint8_t> bytes) const;

  // The same for one object of a trivially copyable type.
  template <typename T>
  bool ReadObject(GuestAddress address, T& out) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (const uint8_t* host = HostPointer(address, sizeof(T)); host != nullptr) {
      memcpy(&out, host, sizeof(T));
      return true;
    }
    return Read(address, absl::MakeSpan(reinterpret_cast<uint8_t*>(&out), sizeof(T)));
  }
  template <typename T>
  bool WriteObject(GuestAddress address, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (uint8_t* host = HostPointer(address, sizeof(T)); host != nullptr) {
      memcpy(host, &value, sizeof(T));
      return true;
    }
    return Write(address, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&value), sizeof(T)));
  }

  absl::Span<const Range> ranges() const { return ranges_; }

 private:
  explicit GuestMemory(std::vector<Range> ranges) : ranges_(std::move(ranges)) {}

  // The range that holds `address`, or nullptr.
  const Range* Find(GuestAddress address) const;

  std::vector<Range> ranges_;  // by start
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_GUEST_MEMORY_H_
