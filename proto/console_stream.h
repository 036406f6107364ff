#ifndef BULKHEAD_PROTO_CONSOLE_STREAM_H_
#define BULKHEAD_PROTO_CONSOLE_STREAM_H_

#include <stddef.h>
#include <stdint.h>

// How a console device and the vmm exchange bytes: packets on a SOCK_SEQPACKET socket that the
// vmm owns one end of, and whose other end outlives the device's processes (a resource).
//
// Both directions count their bytes from 0, since the VM's start. A packet is a header and up to
// kMaxConsoleBytes of data. A receiver drops what it has already, so each byte arrives once:
//
// - Output: the device sends, then saves that it has sent. A successor may send the same bytes
//   again, at the same position.
// - Input: the vmm keeps what is not acknowledged. A device acknowledges what its saved state has
//   taken in; when it attaches it sends a packet without data first, and the vmm sends what
//   follows that acknowledgement again.

namespace bulkhead {

inline constexpr size_t kMaxConsoleBytes = 4096;

struct ConsolePacketHeader {
  uint64_t position;      // of the first byte of data, or of the next one
  uint64_t acknowledged;  // device to vmm: bytes of input that are durably taken in; else 0
};
static_assert(sizeof(ConsolePacketHeader) == 16);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONSOLE_STREAM_H_
