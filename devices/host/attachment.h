#ifndef BULKHEAD_DEVICES_HOST_ATTACHMENT_H_
#define BULKHEAD_DEVICES_HOST_ATTACHMENT_H_

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "base/guest_memory.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "proto/attach.pb.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// No AttachRequest is longer.
inline constexpr size_t kMaxAttachRequestBytes = 64 * 1024;

// What an AttachRequest hands over, checked and sorted by use. Owns every descriptor.
struct Attachment {
  struct GuestMemoryRange {
    GuestAddress start = 0;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    UniqueFd memfd;
    uint64_t page_bytes = 0;  // as the vmm says; 0: small ones
    bool transparent_huge_pages = false;
  };
  struct Resource {
    std::string name;
    UniqueFd fd;
    bool writeback_failed = false;
  };

  uint64_t generation = 0;
  std::string device_name;
  uint64_t function_state = 0;  // kFunctionState..., for a device without saved state
  std::string seccomp_filter;

  v1::ChannelParameters channel;
  UniqueFd request_memory;
  UniqueFd response_memory;
  UniqueFd request_event;
  std::vector<UniqueFd> completion_events;  // by waiter

  std::vector<GuestMemoryRange> guest_memory;
  std::vector<EventFd> doorbells;     // by doorbell index
  std::vector<EventFd> msix_vectors;  // by vector
  UniqueFd intx;                      // not ok(): the device has no line
  UniqueFd intx_resample;             // PCI devices with INTx only
  UniqueFd durable_state;             // not ok(): the device keeps nothing
  std::vector<Resource> resources;
};

// Receives an AttachRequest with all of its descriptors, which may come in several packets. Waits
// for `timeout` at most for each. Where they are more than this process may have open, it raises
// its soft limit. Errors: as ReceiveSocketMessage(); InvalidArgument (a packet that is none of it).
absl::StatusOr<SocketMessage> ReceiveAttachRequest(int attach_socket, absl::Duration timeout);

// Takes an AttachRequest apart for the device that `info` describes. Errors: InvalidArgument;
// the text goes to the operator. Nothing of the request stays open then.
absl::StatusOr<Attachment> ParseAttachRequest(const v1::DeviceInfo& info, SocketMessage message);

// From now on no file can be made larger by this process than the largest of the regular files that
// it was given for writing is now: RLIMIT_FSIZE, which is only lowered. So a process that has been
// taken over cannot fill the host's disk. Block devices have no such limit, and need none. Errors:
// as fstat(2) and setrlimit(2).
absl::Status ForbidFileGrowth(absl::Span<const Attachment::Resource> resources);

// Maps guest RAM, so that huge pages stay whole. Errors: InvalidArgument (ranges overlap or pass
// the end of their file), or as mmap(2).
absl::StatusOr<GuestMemory> MapGuestMemory(absl::Span<const Attachment::GuestMemoryRange> ranges);
// All of it consists of huge pages of hugetlbfs. Where it wants transparent ones, it may have some.
bool HaveHugePages(absl::Span<const Attachment::GuestMemoryRange> ranges);

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_ATTACHMENT_H_
