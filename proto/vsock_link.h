#ifndef BULKHEAD_PROTO_VSOCK_LINK_H_
#define BULKHEAD_PROTO_VSOCK_LINK_H_

#include <stdint.h>

// How a vsock device gets its connections on the host from the vmm: in packets on a SOCK_SEQPACKET
// socket, a resource. The device opens no path and makes no socket. Each process of the device gets
// a new socket.
//
// - A client connects to the VM's vsock socket: the vmm accepts it and sends kAccepted with its
//   descriptor, but no more than the device has granted.
// - The guest connects to a port: the device sends kConnect. The vmm connects to SOCKET_PORT and
//   answers with kConnected and the descriptor, or with kRefused.

namespace bulkhead {

// device -> vmm
struct VsockRequest {
  enum Kind : uint32_t {
    kGrant = 1,    // `id`: how many clients the device takes in all, from the first one on
    kConnect = 2,  // `id`: the device's choice, repeated in the answer; `port`: of the host
  };
  uint32_t kind = 0;
  uint32_t id = 0;
  uint32_t port = 0;
};
static_assert(sizeof(VsockRequest) == 12);

// vmm -> device
struct VsockAnswer {
  enum Kind : uint32_t {
    kAccepted = 1,   // with a descriptor
    kConnected = 2,  // with a descriptor
    kRefused = 3,
  };
  uint32_t kind = 0;
  uint32_t id = 0;
};
static_assert(sizeof(VsockAnswer) == 8);

// Connections that the device may be waiting for. With more, the vmm reads no further requests.
inline constexpr uint32_t kMaxPendingConnects = 64;

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_VSOCK_LINK_H_
