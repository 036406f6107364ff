#ifndef BULKHEAD_INTEGRATION_NET_TCP_PEER_H_
#define BULKHEAD_INTEGRATION_NET_TCP_PEER_H_

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "base/unique_fd.h"

namespace bulkhead::integration {

// The host's end of TCP connections with a guest, in a test's own network namespace.

// Tries for a minute. Not ok(): nobody accepts.
UniqueFd ConnectTcp(const char* ip, uint16_t port);

// On all addresses. Not ok(): the port is taken.
UniqueFd ListenTcp(uint16_t port);

// The next connection, or not ok() after a minute. Its reads wait for a minute at most.
UniqueFd AcceptTcp(const UniqueFd& listener);

// Sends all. Returns what went wrong, or "".
std::string SendAll(const UniqueFd& connection, const std::string& bytes);

// Adds to `bytes` what comes until the peer ends the connection. Returns what went wrong, or "".
std::string ReceiveAll(const UniqueFd& connection, std::string& bytes);

// The same bytes each time, and no block of them twice.
std::string TcpPattern(size_t size);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_NET_TCP_PEER_H_
