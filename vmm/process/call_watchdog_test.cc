#include "vmm/process/call_watchdog.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kNoTime = absl::ZeroDuration();
constexpr absl::Duration kForever = absl::Hours(1);

std::pair<UniqueFd, UniqueFd> Sockets() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// Blocks until the peer sends something.
ssize_t ReadOne(int socket) {
  char byte;
  ssize_t n;
  do {
    n = read(socket, &byte, 1);
  } while (n < 0 && errno == EINTR);
  return n;
}

TEST(CallWatchdogTest, AnOverdueCallFindsItsSocketShutDown) {
  CallWatchdog& watchdog = **CallWatchdog::Get();
  const auto [socket, peer] = Sockets();
  CallWatchdog::Guard guard(watchdog, socket.get(), absl::Milliseconds(1), absl::Milliseconds(1));
  EXPECT_EQ(ReadOne(socket.get()), 0);
  EXPECT_TRUE(guard.cut());
}

TEST(CallWatchdogTest, ACallThatReturnsInTimeKeepsItsSocket) {
  CallWatchdog& watchdog = **CallWatchdog::Get();
  const auto [socket, peer] = Sockets();
  {
    CallWatchdog::Guard guard(watchdog, socket.get(), kForever, kNoTime);
  }
  {
    // The watchdog has checked in between.
    const auto [other, other_peer] = Sockets();
    CallWatchdog::Guard guard(watchdog, other.get(), kNoTime, kNoTime);
    EXPECT_EQ(ReadOne(other.get()), 0);
  }
  ASSERT_EQ(write(peer.get(), "x", 1), 1);
  EXPECT_EQ(ReadOne(socket.get()), 1);
}

TEST(CallWatchdogTest, ExpireCutsACallBeforeItsLimit) {
  CallWatchdog& watchdog = **CallWatchdog::Get();
  const auto [socket, peer] = Sockets();
  CallWatchdog::Guard guard(watchdog, socket.get(), kForever, kForever);
  std::thread other([&] { guard.Expire(absl::Milliseconds(1)); });
  EXPECT_EQ(ReadOne(socket.get()), 0);
  EXPECT_TRUE(guard.cut());
  other.join();
}

TEST(CallWatchdogTest, ACallIsCutWithItsCancellation) {
  CallWatchdog& watchdog = **CallWatchdog::Get();
  const auto [socket, peer] = Sockets();
  CallWatchdog::Guard call(watchdog, socket.get(), kForever, kForever);
  std::thread other([&] {
    const CallWatchdog::Guard cancellation(call, kNoTime);
    EXPECT_EQ(poll(nullptr, 0, -1), -1);
  });
  other.join();
  EXPECT_EQ(ReadOne(socket.get()), 0);
  EXPECT_TRUE(call.cut());
}

TEST(CallWatchdogTest, AThreadThatBlocksElsewhereIsInterruptedUntilItReturns) {
  CallWatchdog& watchdog = **CallWatchdog::Get();
  const auto [socket, peer] = Sockets();
  CallWatchdog::Guard guard(watchdog, socket.get(), kNoTime, kNoTime);
  // Each time it blocks: a close(2) may be followed by another.
  EXPECT_EQ(poll(nullptr, 0, -1), -1);
  EXPECT_EQ(poll(nullptr, 0, -1), -1);
}

TEST(CallWatchdogTest, AThreadIsInterruptedEvenIfNoSignalCanBeQueued) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_SIGPENDING, &none), 0);
  CallWatchdog& watchdog = **CallWatchdog::Get();
  const auto [socket, peer] = Sockets();
  {
    CallWatchdog::Guard guard(watchdog, socket.get(), kNoTime, kNoTime);
    EXPECT_EQ(poll(nullptr, 0, -1), -1);  // without the signal the test times out
  }
  ASSERT_EQ(setrlimit(RLIMIT_SIGPENDING, &before), 0);
}

}  // namespace
}  // namespace bulkhead::vmm
