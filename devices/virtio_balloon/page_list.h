#ifndef BULKHEAD_DEVICES_VIRTIO_BALLOON_PAGE_LIST_H_
#define BULKHEAD_DEVICES_VIRTIO_BALLOON_PAGE_LIST_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <vector>

#include "absl/types/span.h"
#include "base/guest_memory.h"

namespace bulkhead::devices::virtio {

inline constexpr uint64_t kBalloonPage = 4096;  // virtio 1.2, section 5.5: whatever the guest uses

// A run of guest RAM that begins and ends at a page.
struct PageRun {
  GuestAddress start = 0;
  uint64_t size_bytes = 0;
};

// The pages that a request of the driver names, as page numbers of four bytes. All input is the
// guest's: what is no page of its RAM is left out and counted. Thread-compatible.
class PageList {
 public:
  // What one request may name. Linux names 256.
  static constexpr size_t kMaxPages = 1024;

  struct Runs {
    // Sorted, disjoint, and as long as can be: freeing a run costs little more than freeing a page.
    absl::Span<const PageRun> runs;
    uint64_t pages = 0;  // in these
    // Not RAM, or named beyond kMaxPages, or half a number.
    uint64_t left_out = 0;
  };

  PageList();

  // Reads each number once. Valid until the next call.
  Runs Read(absl::Span<const iovec> request, const GuestMemory& memory);

 private:
  std::vector<uint32_t> numbers_;
  std::vector<PageRun> runs_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BALLOON_PAGE_LIST_H_
