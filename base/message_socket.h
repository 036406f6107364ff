#ifndef BULKHEAD_BASE_MESSAGE_SOCKET_H_
#define BULKHEAD_BASE_MESSAGE_SOCKET_H_

#include <stddef.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"

namespace bulkhead {

// One packet of a SOCK_SEQPACKET unix socket, and the descriptors that came with it.
struct SocketMessage {
  std::string bytes;
  std::vector<UniqueFd> descriptors;  // close-on-exec
};

// The kernel passes at most this many descriptors with one packet (SCM_MAX_FD).
inline constexpr size_t kMaxMessageDescriptors = 253;

// Two ends of a new SOCK_SEQPACKET or SOCK_STREAM unix socket, both close-on-exec.
// Errors: as socketpair(2).
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> CreateSocketPair(int type);

// From now on the peer of this unix socket cannot send descriptors over it: its sendmsg(2) fails
// with EPERM. For sockets where none is expected of a peer that is not trusted: the kernel closes a
// descriptor that nobody takes in the thread that reads, and closing one can block for ever (a
// socket with SO_LINGER, a file of a FUSE server that hangs). Without effect before Linux 6.16
// (SO_PASSRIGHTS).
void RefuseDescriptors(int socket);

// Sends one packet; `descriptors` stay the caller's. Never blocks and never raises SIGPIPE.
// Errors: Unavailable (the peer is gone), ResourceExhausted (the socket is full), else as
// sendmsg(2).
absl::Status SendSocketMessage(int socket, absl::string_view bytes,
                               absl::Span<const int> descriptors);

// Receives one packet of a peer that is trusted, waiting for `timeout` at most. An empty packet
// cannot be told from the end and counts as such. Errors: DeadlineExceeded, Unavailable (the peer
// is gone), InvalidArgument (more than `max_bytes`), ResourceExhausted (this process may not have
// all of the descriptors).
absl::StatusOr<SocketMessage> ReceiveSocketMessage(int socket, size_t max_bytes,
                                                   absl::Duration timeout);

// For a peer that is not trusted, also where it can send descriptors: none gets into this process.
// A packet that carries some stays in the socket, and is in the way of those behind it; then the
// close of the socket may block (base/close_elsewhere.h). Used by one thread at a time.
//
// Receives one packet without waiting. As recv(2) with MSG_DONTWAIT | MSG_TRUNC: returns the
// packet's size, which may be more than that of the buffer; 0 at the end. Fails with EBADMSG if it
// carries descriptors.
ssize_t ReceivePlainPacket(int socket, absl::Span<char> buffer);
// Receives one packet, waiting for `timeout` at most. Errors: as ReceiveSocketMessage(), and
// InvalidArgument if it carries descriptors.
absl::StatusOr<std::string> ReceivePlainMessage(int socket, size_t max_bytes,
                                                absl::Duration timeout);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_MESSAGE_SOCKET_H_
