#ifndef BULKHEAD_PROTO_BACK_END_PEER_H_
#define BULKHEAD_PROTO_BACK_END_PEER_H_

#include <stdint.h>

#include <type_traits>

// What a device and the vmm's connector say to each other beside proto/back_end_socket.h, over the
// same socket, in messages of other sizes: which process a connection leads to, so that the device
// knows how long that may use guest memory.

namespace bulkhead {

inline constexpr uint64_t kPeerRequest = 'p';

// Asks for a pidfd of a process that an earlier process of the device has been connected to.
struct PeerRequest {
  uint64_t kind;  // kPeerRequest
  // As in a ConnectAnswer.
  uint64_t peer_pid;
  uint64_t peer_inode;
};
static_assert(std::has_unique_object_representations_v<PeerRequest>);

enum class PeerAnswerKind : uint32_t {
  // Before a connection, with a pidfd of the process that listens, if the kernel tells (Linux 6.9)
  // and it lives.
  kListener,
  // To a PeerRequest, with a pidfd of that process, or an error; ESRCH: it is dead.
  kPeer,
  // This connector is a new one: it does not know what was asked and not answered.
  kAskAgain,
};

struct PeerAnswer {
  PeerAnswerKind kind;
  int32_t error;
  uint64_t peer_pid;
  uint64_t peer_inode;
  uint64_t reserved;
};
static_assert(std::has_unique_object_representations_v<PeerAnswer>);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_BACK_END_PEER_H_
