#include "vmm/control/client_connections.h"

#include <poll.h>
#include <sys/socket.h>

#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr int kTimeoutMs = 10'000;

struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    ours = UniqueFd(fds[0]);
    peers = UniqueFd(fds[1]);
  }
  UniqueFd ours, peers;
};

// Polls without waiting and removes the connections that are over.
void Sweep(ClientConnections& connections) {
  std::vector<pollfd> polled;
  connections.AppendTo(polled);
  poll(polled.data(), polled.size(), 0);
  connections.Remove(polled.data());
}

TEST(ClientConnectionsTest, ConnectionsThatEitherSideHasEndedAreRemoved) {
  Pair first, second, third;
  ClientConnections connections(3);
  for (Pair* pair : {&first, &second, &third}) {
    EXPECT_FALSE(connections.full());
    ASSERT_TRUE(connections.Add(pair->ours.get()).ok());
  }
  EXPECT_TRUE(connections.full());
  Sweep(connections);
  EXPECT_TRUE(connections.full());

  // As gRPC does.
  shutdown(second.ours.get(), SHUT_RDWR);
  second.ours.reset();
  Sweep(connections);
  EXPECT_FALSE(connections.full());

  Pair fourth, fifth;
  ASSERT_TRUE(connections.Add(fourth.ours.get()).ok());
  EXPECT_TRUE(connections.full());
  first.peers.reset();
  Sweep(connections);
  EXPECT_FALSE(connections.full());
  ASSERT_TRUE(connections.Add(fifth.ours.get()).ok());
  EXPECT_TRUE(connections.full());
}

TEST(ClientConnectionsTest, AClientThatOnlyStopsSendingIsStillConnected) {
  Pair pair;
  ClientConnections connections(1);
  ASSERT_TRUE(connections.Add(pair.ours.get()).ok());
  shutdown(pair.peers.get(), SHUT_WR);
  Sweep(connections);
  EXPECT_TRUE(connections.full());
}

TEST(ClientConnectionsTest, CuttingEndsAConnectionThatHasOtherDescriptors) {
  Pair pair;
  ClientConnections connections(1);
  ASSERT_TRUE(connections.Add(pair.ours.get()).ok());
  connections.Cut();
  pollfd polled{.fd = pair.peers.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&polled, 1, kTimeoutMs), 1);
  EXPECT_NE(polled.revents & POLLHUP, 0);
}

}  // namespace
}  // namespace bulkhead::vmm
