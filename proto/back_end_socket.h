#ifndef BULKHEAD_PROTO_BACK_END_SOCKET_H_
#define BULKHEAD_PROTO_BACK_END_SOCKET_H_

#include <stdint.h>

#include <type_traits>

// How a device gets connections to a program of the host that listens on a unix socket, which the
// device itself cannot reach. A resource of the kind UnixSocket is a SOCK_SEQPACKET socket to the
// vmm's connector. The device sends kConnectRequest, one byte. The connector tries to connect,
// again and again, until it can, and sends a ConnectAnswer for each try: the one that has succeeded
// comes with the connection. Then the device may ask for another one. The connector chooses the
// pace.

namespace bulkhead {

inline constexpr char kConnectRequest = 'c';

struct ConnectAnswer {
  int32_t error;  // of socket(2), connect(2); 0: connected
  uint32_t reserved;
  // The process that listens: its pid, and a number that no other process with this pid has; 0: the
  // kernel does not tell.
  uint64_t peer_pid;
  uint64_t peer_inode;
};
static_assert(std::has_unique_object_representations_v<ConnectAnswer>);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_BACK_END_SOCKET_H_
