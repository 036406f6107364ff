#ifndef BULKHEAD_BASE_TESTING_LINGERING_SOCKET_H_
#define BULKHEAD_BASE_TESTING_LINGERING_SOCKET_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {

// A TCP connection whose close(2) waits for an hour: it has unsent data, and SO_LINGER.
struct LingeringSocket {
  LingeringSocket() {
    const UniqueFd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(listening.get(), generic, size), 0);
    EXPECT_EQ(listen(listening.get(), 1), 0);
    EXPECT_EQ(getsockname(listening.get(), generic, &size), 0);
    sender = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(sender.get(), generic, size), 0);
    receiver = UniqueFd(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const linger hour = {.l_onoff = 1, .l_linger = 3600};
    EXPECT_EQ(setsockopt(sender.get(), SOL_SOCKET, SO_LINGER, &hour, sizeof(hour)), 0);
    const std::string data(1 << 16, 'x');
    while (send(sender.get(), data.data(), data.size(), MSG_DONTWAIT) > 0) {
    }
  }

  UniqueFd sender;
  UniqueFd receiver;  // reads nothing; its end resets the connection, which ends the close
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_LINGERING_SOCKET_H_
