#ifndef BULKHEAD_PROTO_NET_LINK_H_
#define BULKHEAD_PROTO_NET_LINK_H_

// The resource "link" of a network device: a pipe from the vmm with one byte for each change that
// the operator makes, and first the state at the attach. The last byte counts.

namespace bulkhead {

inline constexpr char kLinkResource[] = "link";
inline constexpr char kLinkUp = 'u';
inline constexpr char kLinkDown = 'd';

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_NET_LINK_H_
