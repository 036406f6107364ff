#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_DISK_STORM_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_DISK_STORM_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/random.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"

namespace bulkhead::guest {

// The load of the program disk_storm on one disk; its options are those of the program. Too large
// for a stack.
class DiskStorm {
 public:
  // Returns at the end that the options say. What it prints begins with `label`.
  void Run(VirtioDevice& device, const char* label);

 private:
  static constexpr uint32_t kBlockBytes = 4096;
  static constexpr uint32_t kMaxBlocks = 4096;
  static constexpr uint32_t kMaxDepth = Virtqueue::kMaxSize / kMaxRequestDescriptors;

  // A request in flight, or not.
  struct Slot {
    bool busy;
    uint32_t type;
    uint32_t block;    // kNoBlock: a flush
    uint32_t version;  // that a read must find
    uint64_t* words;   // its data
    uint8_t result;
    alignas(16) BlockHeader header;
    alignas(16) VirtqueueDescriptor indirect[kMaxRequestDescriptors];
  };

  uint64_t* NextPlace();
  void Submit(Virtqueue& queue, uint32_t index, uint32_t type, uint32_t block);
  // Takes one completion: it must be of a request in flight, and right. False: the request is
  // submitted again.
  bool Complete(Virtqueue& queue);
  // Puts the next request into a free slot. Most are writes; blocks are read once written.
  void SubmitNext(Virtqueue& queue, uint32_t index);
  // Waits for the queue's interrupt, and for nothing else.
  void AwaitInterrupt(uint32_t& seen);
  // `next` puts a request into a free slot, or returns false: no more. Returns when none is in
  // flight.
  template <typename Next>
  uint64_t RunRequests(Virtqueue& queue, Next next);

  alignas(4096) uint64_t buffers_[kMaxDepth][kBlockBytes / 8] = {};
  Slot slots_[kMaxDepth] = {};
  uint32_t versions_[kMaxBlocks] = {};  // as last written; 0: never
  bool block_busy_[kMaxBlocks] = {};
  uint64_t longest_pause_ = 0;  // in cycles
  uint32_t depth_ = 0;
  uint32_t blocks_ = 0;
  uint64_t patience_ = 0;  // in cycles
  bool retry_ = false;
  uint64_t errors_ = 0;  // requests that were submitted again
  bool use_indirect_ = false;
  bool event_index_ = false;
  bool spread_ = false;
  uint64_t next_place_ = 0;  // with `spread`: of the next data
  uint8_t vector_ = 0;
  Random random_{1};
};

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_DISK_STORM_H_
