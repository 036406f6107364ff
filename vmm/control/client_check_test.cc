// Who may use the control socket. Needs root, and a user namespace with more than one user: outside
// of Bazel's sandbox.

#include "vmm/control/client_check.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/control/control_server.h"
#include "vmm/control/testing/fake_vm.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kRoot = 0;
constexpr uid_t kAlice = 64001;
constexpr uid_t kMallory = 64002;
constexpr int kTimeoutMs = 20'000;

// --- The rules -----------------------------------------------------------------------------------

TEST(CheckUserTest, OnlyTheServersUserAndRootMayControl) {
  const ServingProcess alices{.user = kAlice, .pid = 1};
  EXPECT_TRUE(CheckUser({.user = kAlice, .pid = 2}, alices).ok());
  EXPECT_TRUE(CheckUser({.user = kRoot, .pid = 2}, alices).ok());
  const absl::Status mallory = CheckUser({.user = kMallory, .pid = 2}, alices);
  EXPECT_EQ(mallory.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(mallory.message()), HasSubstr("user 64001"));
  EXPECT_FALSE(CheckUser({.user = kAlice, .pid = 2}, {.user = kRoot, .pid = 1}).ok());
}

// Runs `check` in a grandchild of this process. Returns its result.
template <typename Check>
bool InGrandchild(const Check& check) {
  const pid_t child = fork();
  if (child == 0) {
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(check() ? 0 : 1);
    int status = 0;
    waitpid(grandchild, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0;
}

TEST(CheckNotDescendantTest, ChildrenAndTheirChildrenAreRefused) {
  const ServingProcess server = ServingProcess::Current();
  EXPECT_TRUE(CheckNotDescendant({.user = kRoot, .pid = server.pid}, server).ok());
  EXPECT_TRUE(CheckNotDescendant({.user = kRoot, .pid = getppid()}, server).ok());
  EXPECT_TRUE(InGrandchild([&] {
    return !CheckNotDescendant({.user = kRoot, .pid = getpid()}, server).ok() &&
           !CheckNotDescendant({.user = kRoot, .pid = getppid()}, server).ok() &&
           CheckNotDescendant({.user = kRoot, .pid = getpid()}, {.user = kRoot, .pid = getpid()})
               .ok();
  }));
}

TEST(CheckNotDescendantTest, AProcessThatHasEndedIsRefused) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const absl::Status status =
      CheckNotDescendant({.user = kRoot, .pid = child}, ServingProcess::Current());
  EXPECT_THAT(std::string(status.message()), HasSubstr("has ended"));
}

TEST(CheckNotDescendantTest, ClientsThatCannotBeDescendantsMayBeInvisible) {
  constexpr pid_t kNoProcess = 0x7fffffff;
  const ServingProcess alices{.user = kAlice, .pid = getpid()};
  EXPECT_TRUE(CheckNotDescendant({.user = kAlice, .pid = 0}, alices).ok());
  EXPECT_TRUE(CheckNotDescendant({.user = kRoot, .pid = kNoProcess}, alices).ok());
  EXPECT_FALSE(CheckNotDescendant({.user = kAlice, .pid = kNoProcess}, alices).ok());
  EXPECT_TRUE(
      CheckNotDescendant({.user = kAlice, .pid = kNoProcess, .in_own_namespace = true}, alices)
          .ok());
}

// The client that calls connect(2) in a child, which `prepare` has changed.
template <typename Prepare>
ClientProcess ClientAfter(const Prepare& prepare) {
  int sockets[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
  const UniqueFd own(sockets[0]);
  UniqueFd other(sockets[1]);
  if (!prepare()) return {};
  // The kernel records the process that makes the pair.
  const pid_t child = fork();
  if (child == 0) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) _exit(1);
    SendSocketMessage(other.get(), "pair", {&pair[0], 1}).IgnoreError();
    pause();
    _exit(0);
  }
  const absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(own.get(), 64, absl::Milliseconds(kTimeoutMs));
  ClientProcess client;
  if (message.ok() && message->descriptors.size() == 1) {
    client = *ClientOf(message->descriptors[0].get());
  }
  EXPECT_EQ(client.pid, child);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return client;
}

TEST(ClientOfTest, SaysWhetherTheClientIsInAPidNamespaceBelow) {
  if (!ClientAfter([] { return true; }).in_own_namespace) {
    GTEST_SKIP() << "this kernel has no SO_PEERPIDFD";
  }
  EXPECT_TRUE(InGrandchild(
      [] { return !ClientAfter([] { return unshare(CLONE_NEWPID) == 0; }).in_own_namespace; }));
}

// --- The server ----------------------------------------------------------------------------------

// A control server of `user` whose socket everybody may connect to.
class ClientCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(geteuid(), kRoot) << "this test needs root";
    // Not $TEST_TMPDIR: other users may not enter root's home.
    char pattern[] = "/tmp/control-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    directory_ = pattern;
    ASSERT_EQ(chmod(pattern, 0755), 0);
    path_ = absl::StrCat(directory_, "/vm.sock");
    absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path_);
    ASSERT_TRUE(socket.ok()) << socket.status();
    ASSERT_EQ(chmod(path_.c_str(), 0666), 0);
    absl::StatusOr<std::unique_ptr<ControlServer>> server =
        ControlServer::Start(vm_, *std::move(socket), refused_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  UniqueFd Connect() const {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  UniqueFd ConnectAs(uid_t user) const {
    EXPECT_EQ(seteuid(user), 0);
    UniqueFd fd = Connect();
    EXPECT_EQ(seteuid(kRoot), 0);
    return fd;
  }
  // A server that speaks sends its settings first.
  static bool IsServed(const UniqueFd& connection) {
    pollfd polled = {.fd = connection.get(), .events = POLLIN, .revents = 0};
    char byte;
    return poll(&polled, 1, kTimeoutMs) == 1 && read(connection.get(), &byte, 1) == 1;
  }
  double Refused() const {
    v1::VmMetrics metrics;
    refused_.AppendTo(metrics);
    return metrics.families(0).samples(0).value();
  }

  FakeVm vm_;
  RefusedClients refused_;
  std::string directory_, path_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ClientCheckTest, AnotherUsersConnectionIsClosedAndCounted) {
  EXPECT_TRUE(IsServed(ConnectAs(kRoot)));
  EXPECT_EQ(Refused(), 0);
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(IsServed(ConnectAs(kMallory)));
  EXPECT_FALSE(IsServed(ConnectAs(kMallory)));
  EXPECT_THAT(
      ::testing::internal::GetCapturedStderr(),
      HasSubstr(absl::StrCat("refusing connections: user 64002, process ", getpid(), ": ")));
  EXPECT_EQ(Refused(), 2);
  EXPECT_TRUE(IsServed(ConnectAs(kRoot)));
}

TEST_F(ClientCheckTest, AProcessThatTheServerStartedIsRefused) {
  EXPECT_TRUE(InGrandchild([&] { return !IsServed(Connect()); }));
  EXPECT_EQ(Refused(), 1);
}

}  // namespace
}  // namespace bulkhead::vmm
