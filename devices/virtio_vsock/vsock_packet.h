#ifndef BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_PACKET_H_
#define BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_PACKET_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

// The packets of the socket device (virtio 1.2, section 5.10.6), and the line by which a client on
// the host asks for a port of the guest. No I/O.

namespace bulkhead::devices::virtio {

inline constexpr uint64_t kHostCid = 2;
inline constexpr uint64_t kMinGuestCid = 3;
inline constexpr uint64_t kMaxGuestCid = 0xfffffffe;

inline constexpr uint16_t kVsockStream = 1;  // VsockHeader.type

enum class VsockOperation : uint16_t {
  kInvalid = 0,
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kData = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

// VsockHeader.flags of kShutdown: the sender of the packet will ...
inline constexpr uint32_t kShutdownReceive = 1;  // receive no more
inline constexpr uint32_t kShutdownSend = 2;     // send no more
inline constexpr uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

#pragma pack(push, 4)
struct VsockHeader {
  uint64_t source_cid = 0;
  uint64_t destination_cid = 0;
  uint32_t source_port = 0;
  uint32_t destination_port = 0;
  uint32_t length = 0;  // of the data behind the header
  uint16_t type = 0;
  uint16_t operation = 0;
  uint32_t flags = 0;
  uint32_t buffer_bytes = 0;     // of the sender ("buf_alloc")
  uint32_t forwarded_bytes = 0;  // that have left that buffer, modulo 2^32 ("fwd_cnt")
};
#pragma pack(pop)
static_assert(sizeof(VsockHeader) == 44);

// The ID of the one event (5.10.6.7): all connections are gone.
inline constexpr uint32_t kEventTransportReset = 0;

size_t TotalBytes(absl::Span<const iovec> buffers);
// The parts of `buffers` that hold the bytes [offset, offset + size); fewer if they end before.
std::vector<iovec> Slice(absl::Span<const iovec> buffers, size_t offset, size_t size);
// Copies up to `size` bytes from the beginning of the buffers, or to it. Returns how many.
size_t CopyOut(absl::Span<const iovec> buffers, void* to, size_t size);
size_t CopyIn(absl::Span<const iovec> buffers, const void* from, size_t size);

// "CONNECT PORT\n", the first bytes of a client.
struct ConnectLine {
  enum class State { kIncomplete, kValid, kInvalid };
  State state = State::kIncomplete;
  uint32_t port = 0;
};
// `text`: what has come so far, up to the newline if there is one.
ConnectLine ParseConnectLine(absl::string_view text);

// No valid line is longer, with its newline.
inline constexpr size_t kMaxConnectLine = sizeof("CONNECT 4294967295\n") - 1;

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_PACKET_H_
