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

// Forbids the peer of this unix socket to send descriptors: its sendmsg(2) fails with EPERM. For
// untrusted peers that have none to send. The kernel closes a descriptor that the receiver does not
// take, in the receiving thread, and such a close can block for ever (a socket with SO_LINGER, a
// file of a FUSE server that hangs). Has no effect before Linux 6.16 (SO_PASSRIGHTS).
void RefuseDescriptors(int socket);

// Sends one packet; `descriptors` stay the caller's. Never raises SIGPIPE. Waits only where too
// many descriptors are on their way between the user's processes, for 100 ms at most. Errors:
// Unavailable (the peer is gone), ResourceExhausted (the socket is full, or those descriptors stay
// there), else as sendmsg(2).
absl::Status SendSocketMessage(int socket, absl::string_view bytes,
                               absl::Span<const int> descriptors);

// Receives one packet from a trusted peer; waits for `timeout` at most. An empty packet looks like
// the end of the stream and counts as it. Errors: DeadlineExceeded, Unavailable (the peer is gone),
// InvalidArgument (more than `max_bytes`), ResourceExhausted (too many open descriptors).
absl::StatusOr<SocketMessage> ReceiveSocketMessage(int socket, size_t max_bytes,
                                                   absl::Duration timeout);

// Receives one packet from an untrusted peer, without waiting. No descriptor gets into this
// process: a packet that carries some fails with EBADMSG and stays in the socket, before all later
// ones; then closing the socket may block (base/close_elsewhere.h). Else as recv(2) with
// MSG_DONTWAIT | MSG_TRUNC: returns the packet's size, which may exceed the buffer's; 0 at the end.
// One thread at a time.
ssize_t ReceivePlainPacket(int socket, absl::Span<char> buffer);
// The same for a SOCK_STREAM socket, and not the part of a packet but of a stream: never more than
// the buffer's size.
ssize_t ReceivePlainBytes(int socket, absl::Span<char> buffer);
// As ReceivePlainPacket(), but waits for `timeout` at most. Errors: as ReceiveSocketMessage(), and
// InvalidArgument (the packet carries descriptors).
absl::StatusOr<std::string> ReceivePlainMessage(int socket, size_t max_bytes,
                                                absl::Duration timeout);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_MESSAGE_SOCKET_H_
