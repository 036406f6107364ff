#include "base/close_elsewhere.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "base/message_socket.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

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
  UniqueFd receiver;  // reads nothing
};

// The test's own time limit judges.
TEST(CloseElsewhereTest, TheCallerDoesNotWaitForAnEnd) {
  LingeringSocket lingering;
  std::vector<UniqueFd> descriptors;
  descriptors.push_back(std::move(lingering.sender));
  CloseElsewhere(std::move(descriptors));
  CloseElsewhere({});
  lingering.receiver.reset();  // resets the connection, which ends the close
}

TEST(RefuseDescriptorsTest, APeerCannotSendADescriptorThatWouldHoldTheReader) {
  LingeringSocket lingering;
  auto sockets = *CreateSocketPair(SOCK_STREAM);
  RefuseDescriptors(sockets.first.get());
  const absl::Status sent = SendSocketMessage(sockets.second.get(), "x", {lingering.sender.get()});
  int refuses = 1;
  socklen_t size = sizeof(refuses);
  constexpr int kPassRights = 83;
  if (getsockopt(sockets.first.get(), SOL_SOCKET, kPassRights, &refuses, &size) != 0) {
    EXPECT_EQ(errno, ENOPROTOOPT);  // before Linux 6.16: sent as ever
    EXPECT_TRUE(sent.ok());
    lingering.receiver.reset();
    return;
  }
  EXPECT_EQ(refuses, 0);
  EXPECT_FALSE(sent.ok());
  // The other direction is as it was.
  EXPECT_TRUE(SendSocketMessage(sockets.first.get(), "x", {STDERR_FILENO}).ok());
  lingering.receiver.reset();
}

}  // namespace
}  // namespace bulkhead
