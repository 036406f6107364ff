#ifndef BULKHEAD_PROTO_CONSOLE_STREAM_H_
#define BULKHEAD_PROTO_CONSOLE_STREAM_H_

#include <stddef.h>
#include <stdint.h>

// How a console device and the vmm exchange bytes: packets on a SOCK_SEQPACKET socket, a resource
// that is a new one for each process of the device. A packet is a header and up to
// kMaxConsoleBytes of data.
//
// Both directions count their bytes from 0, since the VM's start. A receiver drops what it has
// already, so each byte arrives once, whenever a process dies:
//
// - Output: the device sends, then saves that it has sent. A successor may send the same bytes
//   again, at the same position.
// - Input: the vmm keeps what is not acknowledged. A device acknowledges what its saved state has
//   taken in; it may do so late, by kMaxConsoleBytes.
//
// The first packet of a process has no data: it tells where the process goes on, and the vmm sends
// the input from there on. A process without saved state does not know (kConsolePositionUnknown);
// the vmm's answer, a packet without data, tells it both positions. It saves them before it sends
// its first output.

namespace bulkhead {

inline constexpr size_t kMaxConsoleBytes = 4096;
// The most that a device sends before it saves that it has: what comes again is never more.
inline constexpr size_t kMaxConsoleRepeatBytes = 64 * 1024;
inline constexpr uint64_t kConsolePositionUnknown = ~uint64_t{0};

struct ConsolePacketHeader {
  uint64_t position;      // of the first byte of data, or of the next one
  uint64_t acknowledged;  // bytes of the other direction that are taken in for good
};
static_assert(sizeof(ConsolePacketHeader) == 16);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONSOLE_STREAM_H_
