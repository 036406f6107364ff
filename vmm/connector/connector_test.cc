#include "vmm/connector/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/back_end_socket.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);

class ConnectorTest : public testing::Test {
 protected:
  ~ConnectorTest() override { unlink(path_.c_str()); }

  UniqueFd Listen(int backlog = 8) {
    unlink(path_.c_str());
    UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener.get(), backlog), 0);
    return listener;
  }
  // As a device's process does.
  void Ask(int socket) { ASSERT_TRUE(SendSocketMessage(socket, "c", {}).ok()); }
  ConnectAnswer Answer(int socket, UniqueFd* connection = nullptr) {
    ConnectAnswer answer = {.error = -1, .reserved = 0, .peer_pid = 0, .peer_inode = 0};
    absl::StatusOr<SocketMessage> message = ReceiveSocketMessage(socket, sizeof(answer), kLong);
    EXPECT_TRUE(message.ok()) << message.status();
    if (!message.ok() || message->bytes.size() != sizeof(answer)) return answer;
    memcpy(&answer, message->bytes.data(), sizeof(answer));
    EXPECT_EQ(message->descriptors.size(), answer.error == 0 ? 1u : 0u);
    if (connection != nullptr && answer.error == 0)
      *connection = std::move(message->descriptors[0]);
    return answer;
  }
  ConnectAnswer AwaitConnection(int socket, UniqueFd* connection = nullptr) {
    ConnectAnswer answer;
    do {
      answer = Answer(socket, connection);
    } while (answer.error > 0);
    return answer;
  }

  const std::string path_ = testing::TempDir() + "/connector_test_" + std::to_string(getpid());
  std::unique_ptr<Connector> connector_ =
      *Connector::Start({{.path = "/nowhere/at/all"}, {.path = path_}}, /*confined=*/true);
};

TEST_F(ConnectorTest, GivesAConnectionForEachRequest) {
  const UniqueFd listener = Listen();
  const int socket = connector_->SocketForProcess(1);
  for (int i = 0; i < 3; ++i) {
    Ask(socket);
    UniqueFd connection;
    const ConnectAnswer answer = Answer(socket, &connection);
    EXPECT_EQ(answer.error, 0);
    EXPECT_EQ(answer.peer_pid, static_cast<uint64_t>(getpid()));
    const UniqueFd accepted(accept(listener.get(), nullptr, nullptr));
    ASSERT_TRUE(accepted.ok());
    EXPECT_EQ(write(connection.get(), "hello", 5), 5);
    char text[5];
    EXPECT_EQ(read(accepted.get(), text, sizeof(text)), 5);
  }
}

TEST_F(ConnectorTest, AnAnchorLeadsToASocketWithoutAName) {
  const UniqueFd listener = Listen();
  const UniqueFd anchor(open(path_.c_str(), O_PATH | O_CLOEXEC));
  unlink(path_.c_str());
  const std::unique_ptr<Connector> connector =
      *Connector::Start({{.path = path_}, {.anchor = anchor.get()}}, /*confined=*/true);
  const int gone = connector->SocketForProcess(0);
  Ask(gone);
  EXPECT_EQ(Answer(gone).error, ENOENT);
  const int socket = connector->SocketForProcess(1);
  Ask(socket);
  const ConnectAnswer answer = Answer(socket);
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

}  // namespace
}  // namespace bulkhead::vmm
