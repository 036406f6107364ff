#ifndef BULKHEAD_PROTO_CONSOLE_STREAM_H_
#define BULKHEAD_PROTO_CONSOLE_STREAM_H_

#include <stddef.h>
#include <stdint.h>

// How a console device and the vmm exchange bytes: in packets on a SOCK_SEQPACKET socket, a
// resource. Each process of the device gets a new socket. A packet is a header and up to
// kMaxConsoleBytes of data.
//
// Each direction numbers its bytes from 0, since the VM's start. A receiver drops bytes that it
// already has, so each byte arrives once, even if a process dies at any moment:
//
// - Output: the device sends bytes, then saves its new position. Its successor may send the same
//   bytes again, at the same position.
// - Input: the vmm keeps bytes until they are acknowledged. The device acknowledges bytes that its
//   saved state includes; it may lag behind by kMaxConsoleBytes.
//
// The first packet of a process has no data. It states both positions of the process, and the vmm
// sends the input from there. A process without saved state sends kConsolePositionUnknown; the vmm
// answers with a packet without data that has both positions. The process saves them before it
// sends output.

namespace bulkhead {

inline constexpr size_t kMaxConsoleBytes = 4096;
// The most that a device sends before it saves its position, so the most that it ever sends again.
inline constexpr size_t kMaxConsoleRepeatBytes = 64 * 1024;
inline constexpr uint64_t kConsolePositionUnknown = ~uint64_t{0};

struct ConsolePacketHeader {
  uint64_t position;      // of the first byte of data, or of the next one
  uint64_t acknowledged;  // bytes of the other direction that are taken in for good
};
static_assert(sizeof(ConsolePacketHeader) == 16);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONSOLE_STREAM_H_
