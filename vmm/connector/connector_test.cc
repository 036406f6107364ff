#include "vmm/connector/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/pipe.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/back_end_peer.h"
#include "proto/back_end_socket.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);

// An answer of either type.
struct Heard {
  int32_t error = -1;
  uint64_t peer_pid = 0;
  uint64_t peer_inode = 0;
  std::optional<PeerAnswerKind> kind = std::nullopt;  // of a PeerAnswer
};

class ConnectorTest : public testing::Test {
 protected:
  ~ConnectorTest() override { unlink(path_.c_str()); }

  UniqueFd Listen(int backlog = 8) {
    UniqueFd listener = Bind();
    EXPECT_EQ(listen(listener.get(), backlog), 0);
    return listener;
  }
  UniqueFd Bind() {
    unlink(path_.c_str());
    UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return listener;
  }
  // In place of the one before.
  std::unique_ptr<Connector> Start(std::vector<SocketPlace> places) {
    std::vector<SideProcess> processes;
    std::unique_ptr<Connector> connector =
        Connector::Create(std::move(places), /*confined=*/true, processes).value();
    processes_ = SideProcesses::Start(std::move(processes)).value();
    return connector;
  }
  // As a device's process does.
  void Ask(int socket) { ASSERT_TRUE(SendSocketMessage(socket, "c", {}).ok()); }
  // Listeners are taken note of, and are no answer.
  Heard Answer(int socket, UniqueFd* descriptor = nullptr) {
    Heard heard;
    absl::StatusOr<SocketMessage> message = ReceiveSocketMessage(socket, 64, kLong);
    EXPECT_TRUE(message.ok()) << message.status();
    if (!message.ok()) return heard;
    if (message->bytes.size() == sizeof(PeerAnswer)) {
      PeerAnswer answer;
      memcpy(&answer, message->bytes.data(), sizeof(answer));
      heard = {answer.error, answer.peer_pid, answer.peer_inode, answer.kind};
    } else if (message->bytes.size() == sizeof(ConnectAnswer)) {
      ConnectAnswer answer;
      memcpy(&answer, message->bytes.data(), sizeof(answer));
      heard = {answer.error, answer.peer_pid, answer.peer_inode, std::nullopt};
    }
    const bool has_descriptor = heard.error == 0 && heard.kind != PeerAnswerKind::kAskAgain;
    EXPECT_EQ(message->descriptors.size(), has_descriptor ? 1u : 0u);
    if (heard.kind == PeerAnswerKind::kListener) {
      listener_process_ = std::move(message->descriptors[0]);
      return Answer(socket, descriptor);
    }
    if (descriptor != nullptr && has_descriptor) {
      *descriptor = std::move(message->descriptors[0]);
    }
    return heard;
  }
  Heard AwaitConnection(int socket, UniqueFd* connection = nullptr) {
    Heard answer;
    do {
      answer = Answer(socket, connection);
    } while (answer.error > 0);
    return answer;
  }

  // As a device does that a new connector may be told of.
  Heard Connect(int socket) {
    Heard answer;
    do {
      Ask(socket);
      answer = AwaitConnection(socket);
    } while (answer.kind == PeerAnswerKind::kAskAgain);
    return answer;
  }
  void AskForPeer(int socket, const Heard& peer) {
    const PeerRequest request = {
        .kind = kPeerRequest, .peer_pid = peer.peer_pid, .peer_inode = peer.peer_inode};
    const absl::string_view bytes(reinterpret_cast<const char*>(&request), sizeof(request));
    ASSERT_TRUE(SendSocketMessage(socket, bytes, {}).ok());
  }
  static bool IsDead(const UniqueFd& process) {
    pollfd dead = {.fd = process.get(), .events = POLLIN, .revents = 0};
    return poll(&dead, 1, 0) == 1;
  }
  // A process that listens, with its pid.
  pid_t ListenElsewhere() {
    Pipe ready = CreatePipe().value();
    const pid_t process = fork();
    if (process == 0) {
      const UniqueFd listener = Listen();
      (void)!write(ready.write_end.get(), "r", 1);
      while (true) pause();
    }
    char byte = 0;
    EXPECT_EQ(read(ready.read_end.get(), &byte, 1), 1);
    return process;
  }
  static void Kill(pid_t process) {
    kill(process, SIGKILL);
    waitpid(process, nullptr, 0);
  }

  UniqueFd listener_process_;  // of the last kListener answer
  const std::string path_ = testing::TempDir() + "/connector_test_" + std::to_string(getpid());
  std::unique_ptr<SideProcesses> processes_;
  std::unique_ptr<Connector> connector_ = Start({{.path = "/nowhere/at/all"}, {.path = path_}});
};

TEST_F(ConnectorTest, GivesAConnectionForEachRequest) {
  const UniqueFd listener = Listen();
  const int socket = connector_->SocketForProcess(1);
  for (int i = 0; i < 3; ++i) {
    Ask(socket);
    UniqueFd connection;
    const Heard answer = Answer(socket, &connection);
    EXPECT_EQ(answer.error, 0);
    EXPECT_EQ(answer.peer_pid, static_cast<uint64_t>(getpid()));
    const UniqueFd accepted(accept(listener.get(), nullptr, nullptr));
    ASSERT_TRUE(accepted.ok());
    EXPECT_EQ(write(connection.get(), "hello", 5), 5);
    char text[5];
    EXPECT_EQ(read(accepted.get(), text, sizeof(text)), 5);
  }
}

TEST_F(ConnectorTest, AConnectionComesWithItsListenersPidfd) {
  const pid_t process = ListenElsewhere();
  const int socket = connector_->SocketForProcess(1);
  Ask(socket);
  const Heard answer = AwaitConnection(socket);
  EXPECT_EQ(answer.peer_pid, static_cast<uint64_t>(process));
  if (answer.peer_inode == 0) {
    EXPECT_FALSE(listener_process_.ok()) << "before Linux 6.9 there is nothing to rely on";
  } else {
    EXPECT_FALSE(IsDead(listener_process_));
  }
  Kill(process);
  if (answer.peer_inode != 0) {
    EXPECT_TRUE(IsDead(listener_process_));
  }
}

TEST_F(ConnectorTest, AListenerThatHasLeftItsSocketToAnotherIsNotNamed) {
  const UniqueFd listener = Bind();
  const pid_t process = fork();
  if (process == 0) _exit(listen(listener.get(), 8));
  waitpid(process, nullptr, 0);
  const int socket = connector_->SocketForProcess(1);
  Ask(socket);
  EXPECT_EQ(AwaitConnection(socket).error, 0);
  EXPECT_FALSE(listener_process_.ok()) << "its death says nothing of who serves";
}

TEST_F(ConnectorTest, AProcessIsFoundByItsNumbersUntilItIsDead) {
  const pid_t process = ListenElsewhere();
  const int socket = connector_->SocketForProcess(1);
  Ask(socket);
  const Heard peer = AwaitConnection(socket);
  // A successor asks, which has no connection.
  const int next = connector_->SocketForProcess(1);
  AskForPeer(next, peer);
  UniqueFd found;
  Heard answer = Answer(next, &found);
  EXPECT_EQ(answer.kind, PeerAnswerKind::kPeer);
  EXPECT_EQ(answer.peer_pid, peer.peer_pid);
  if (peer.peer_inode == 0) {
    EXPECT_NE(answer.error, 0);
    return Kill(process);
  }
  EXPECT_EQ(answer.error, 0);
  EXPECT_FALSE(IsDead(found));
  Heard other = peer;
  ++other.peer_inode;
  AskForPeer(next, other);
  EXPECT_EQ(Answer(next).error, ESRCH) << "another process has had this pid";
  Kill(process);
  EXPECT_TRUE(IsDead(found));
  AskForPeer(next, peer);
  EXPECT_EQ(Answer(next).error, ESRCH);
  other.peer_pid = uint64_t{1} << 40;
  AskForPeer(next, other);
  EXPECT_EQ(Answer(next).error, ESRCH);
}

TEST_F(ConnectorTest, AnAnchorLeadsToASocketWithoutAName) {
  const UniqueFd listener = Listen();
  const auto anchor = std::make_shared<const UniqueFd>(open(path_.c_str(), O_PATH | O_CLOEXEC));
  unlink(path_.c_str());
  const std::unique_ptr<Connector> connector = Start({{.path = path_}, {.anchor = anchor}});
  const int gone = connector->SocketForProcess(0);
  Ask(gone);
  EXPECT_EQ(Answer(gone).error, ENOENT);
  const int socket = connector->SocketForProcess(1);
  Ask(socket);
  const Heard answer = Answer(socket);
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.peer_pid, 0u);
}

TEST_F(ConnectorTest, TriesUntilSomebodyListens) {
  const int nowhere = connector_->SocketForProcess(0);
  const int socket = connector_->SocketForProcess(1);
  Ask(nowhere);
  Ask(socket);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Answer(nowhere).error, ENOENT);
    EXPECT_EQ(Answer(socket).error, ENOENT);
  }
  {
    const UniqueFd dead = Listen();
  }
  while (Answer(socket).error == ENOENT) {
  }
  EXPECT_EQ(Answer(socket).error, ECONNREFUSED);
  const UniqueFd listener = Listen();
  EXPECT_EQ(AwaitConnection(socket).error, 0);
}

TEST_F(ConnectorTest, AListenerThatAcceptsNothingHoldsNobodyUp) {
  const UniqueFd full = Listen(/*backlog=*/0);
  const int socket = connector_->SocketForProcess(1);
  Ask(socket);
  EXPECT_EQ(Answer(socket).error, 0);
  Ask(socket);
  EXPECT_EQ(Answer(socket).error, EAGAIN);
}

TEST_F(ConnectorTest, ANewProcessTakesTheOldOnesPlace) {
  const UniqueFd listener = Listen();
  const UniqueFd old(dup(connector_->SocketForProcess(1)));
  Ask(old.get());
  EXPECT_EQ(Answer(old.get()).error, 0);
  const int socket = connector_->SocketForProcess(1);
  Ask(socket);
  EXPECT_EQ(AwaitConnection(socket).error, 0);
  EXPECT_TRUE(absl::IsUnavailable(ReceiveSocketMessage(old.get(), 64, kLong).status()));
}

TEST_F(ConnectorTest, ADeviceThatBreaksTheRulesLosesItsSocketAndNobodyElseDoes) {
  const UniqueFd listener = Listen();
  const int bad = connector_->SocketForProcess(0);
  ASSERT_TRUE(SendSocketMessage(bad, "x", {}).ok());
  EXPECT_TRUE(absl::IsUnavailable(ReceiveSocketMessage(bad, 64, kLong).status()));
  // One that asks on and on, and reads nothing.
  const int greedy = connector_->SocketForProcess(0);
  for (int i = 0; i < 2000 && SendSocketMessage(greedy, "c", {}).ok(); ++i) {
  }
  const int socket = connector_->SocketForProcess(1);
  Ask(socket);
  EXPECT_EQ(Answer(socket).error, 0);
}

TEST_F(ConnectorTest, ADeadConnectorIsReplacedAndTheNextOneServesTheSameDevices) {
  const UniqueFd listener = Listen();
  const int nowhere = connector_->SocketForProcess(0);
  int socket = connector_->SocketForProcess(1);
  for (int i = 0; i < 4; ++i) {
    Ask(nowhere);
    EXPECT_EQ(Answer(nowhere).error, ENOENT);
    const pid_t keeper = ChildOf(getpid());
    const pid_t process = ChildOf(keeper);
    ASSERT_GT(process, 0);
    kill(process, SIGKILL);
    // A device's next process may come in between.
    if (i % 2 == 1) socket = connector_->SocketForProcess(1);
    EXPECT_EQ(Connect(socket).error, 0);
    while (Answer(nowhere).kind != PeerAnswerKind::kAskAgain) {
    }
    EXPECT_NE(ChildOf(keeper), process);
  }
}

}  // namespace
}  // namespace bulkhead::vmm
