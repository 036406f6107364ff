#include "vmm/back_end/connection_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/back_end/unnamed_listener.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kSetMemTable = 5;
constexpr uint32_t kGetVringBase = 11;
constexpr uint32_t kSetVringKick = 12;
constexpr uint32_t kGetProtocolFeatures = 15;

// A message of vhost-user.
std::string Bytes(uint32_t type, absl::string_view payload = "") {
  const uint32_t header[] = {type, 1, static_cast<uint32_t>(payload.size())};
  return std::string(reinterpret_cast<const char*>(header), sizeof(header)) + std::string(payload);
}
std::string OfWord(uint64_t word) { return {reinterpret_cast<const char*>(&word), sizeof(word)}; }

class ConnectionKeeperTest : public testing::Test {
 protected:
  ConnectionKeeperTest() {
    absl::StatusOr<UnnamedListener> listener = MakeUnnamedListener();
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    auto ends = CreateSocketPair(SOCK_STREAM);
    EXPECT_TRUE(ends.ok());
    back_end_ = std::move(ends->first);
    keepers_end_ = std::move(ends->second);
  }
  ~ConnectionKeeperTest() override {
    back_end_.reset();
    if (keeper_.joinable()) keeper_.join();
  }

  void Start() {
    keeper_ = std::thread([this] { KeepConnection(listener_.socket.get(), keepers_end_.get()); });
  }
  UniqueFd Connect() {
    absl::StatusOr<UniqueFd> device = ConnectTo(listener_);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : UniqueFd();
  }
  // A connection made before the keeper has begun to listen is closed.
  UniqueFd ConnectUntilAccepted() {
    for (int i = 0; i < 100; ++i) {
      UniqueFd device = Connect();
      if (!SendSocketMessage(device.get(), Bytes(kGetFeatures), {}).ok()) continue;
      pollfd ready[] = {{.fd = device.get(), .events = POLLIN, .revents = 0},
                        {.fd = back_end_.get(), .events = POLLIN, .revents = 0}};
      if (poll(ready, 2, 20'000) <= 0) break;
      if (ready[1].revents == 0) continue;
      EXPECT_EQ(Receive(back_end_), Bytes(kGetFeatures));
      Send(back_end_, Bytes(kGetFeatures, OfWord(7)));
      EXPECT_EQ(Receive(device), Bytes(kGetFeatures, OfWord(7)));
      return device;
    }
    ADD_FAILURE() << "not accepted";
    return UniqueFd();
  }
  static void Send(const UniqueFd& to, const std::string& bytes, int descriptor = -1) {
    const absl::Status sent =
        descriptor < 0 ? SendSocketMessage(to.get(), bytes, {})
                       : SendSocketMessage(to.get(), bytes, absl::MakeConstSpan(&descriptor, 1));
    EXPECT_TRUE(sent.ok()) << sent;
  }
  // One message, and the descriptor that came with it.
  static std::string Receive(const UniqueFd& from, UniqueFd* descriptor = nullptr) {
    std::string bytes;
    size_t wanted = 12;
    while (bytes.size() < wanted) {
      absl::StatusOr<SocketMessage> part =
          ReceiveSocketMessage(from.get(), wanted - bytes.size(), kLong);
      if (!part.ok()) return std::string(part.status().message());
      bytes += part->bytes;
      if (descriptor != nullptr && !part->descriptors.empty()) {
        *descriptor = std::move(part->descriptors[0]);
      }
      if (bytes.size() == 12) {
        uint32_t size = 0;
        memcpy(&size, &bytes[8], sizeof(size));
        wanted += size;
      }
    }
    return bytes;
  }
  static bool IsAtEnd(const UniqueFd& socket) {
    return absl::IsUnavailable(ReceiveSocketMessage(socket.get(), 1, kLong).status());
  }

  UnnamedListener listener_;
  UniqueFd back_end_;
  UniqueFd keepers_end_;
  std::thread keeper_;
};

TEST_F(ConnectionKeeperTest, MessagesPassBothWaysWithTheirDescriptors) {
  Start();
  const UniqueFd device = ConnectUntilAccepted();
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  const std::string message = Bytes(kSetMemTable, std::string(300, 'm'));
  Send(device, message.substr(0, 5), null.get());
  Send(device, message.substr(5));
  UniqueFd received;
  EXPECT_EQ(Receive(back_end_, &received), message);
  struct stat info = {};
  ASSERT_EQ(fstat(received.get(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
  Send(back_end_, Bytes(kSetMemTable, OfWord(0)));
  EXPECT_EQ(Receive(device), Bytes(kSetMemTable, OfWord(0)));
}

TEST_F(ConnectionKeeperTest, MemorySlotsAreNotOffered) {
  Start();
  const UniqueFd device = ConnectUntilAccepted();
  Send(device, Bytes(kGetProtocolFeatures));
  Receive(back_end_);
  Send(back_end_, Bytes(kGetProtocolFeatures, OfWord(0x8009)));
  EXPECT_EQ(Receive(device), Bytes(kGetProtocolFeatures, OfWord(0x0009)));
}

TEST_F(ConnectionKeeperTest, WhenADeviceIsGoneItsQueuesAreStoppedBeforeTheNextIsServed) {
  Start();
  UniqueFd device = ConnectUntilAccepted();
  for (const uint64_t queue : {0, 1, 2}) Send(device, Bytes(kSetVringKick, OfWord(queue)));
  Send(device, Bytes(kGetVringBase, OfWord(2)));
  for (int i = 0; i < 4; ++i) Receive(back_end_);
  device.reset();
  const UniqueFd successor = Connect();
  Send(successor, Bytes(kGetProtocolFeatures));
  // Queue 2 has been asked for already.
  EXPECT_EQ(Receive(back_end_), Bytes(kGetVringBase, OfWord(0)));
  EXPECT_EQ(Receive(back_end_), Bytes(kGetVringBase, OfWord(1)));
  EXPECT_EQ(Receive(back_end_), Bytes(kGetFeatures));
  pollfd ready = {.fd = back_end_.get(), .events = POLLIN, .revents = 0};
  for (const uint64_t queue : {2, 0, 1}) Send(back_end_, Bytes(kGetVringBase, OfWord(queue)));
  EXPECT_EQ(poll(&ready, 1, 200), 0) << "the successor must wait";
  Send(back_end_, Bytes(kGetFeatures, OfWord(7)));
  EXPECT_EQ(Receive(back_end_), Bytes(kGetProtocolFeatures));
  Send(back_end_, Bytes(kGetProtocolFeatures, OfWord(1)));
  EXPECT_EQ(Receive(successor), Bytes(kGetProtocolFeatures, OfWord(1)))
      << "it gets none of the replies to its predecessor";
}

TEST_F(ConnectionKeeperTest, ADeviceThatBreaksTheProtocolLosesItsConnection) {
  Start();
  const UniqueFd device = ConnectUntilAccepted();
  const uint32_t too_large[] = {kSetMemTable, 1, 1 << 20};
  Send(device, std::string(reinterpret_cast<const char*>(too_large), sizeof(too_large)));
  EXPECT_TRUE(IsAtEnd(device));
  EXPECT_EQ(Receive(back_end_), Bytes(kGetFeatures));
  Send(back_end_, Bytes(kGetFeatures, OfWord(7)));
  const UniqueFd next = Connect();
  Send(next, Bytes(kGetProtocolFeatures));
  EXPECT_EQ(Receive(back_end_), Bytes(kGetProtocolFeatures));
}

// The back end reads on only once it has written its reply, as a program with one thread does.
TEST_F(ConnectionKeeperTest, ADeviceThatAsksOnAndReadsNothingLosesItsConnection) {
  Start();
  const UniqueFd device = ConnectUntilAccepted();
  const timeval limit = {.tv_sec = 20, .tv_usec = 0};
  for (const int socket : {device.get(), back_end_.get()}) {
    ASSERT_EQ(setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
  }
  const std::string reply = Bytes(kGetFeatures, OfWord(7));
  std::thread serving([&] {
    while (Receive(back_end_) == Bytes(kGetFeatures) &&
           send(back_end_.get(), reply.data(), reply.size(), MSG_NOSIGNAL) > 0) {
    }
  });
  // Faster than the keeper reads.
  std::string questions;
  for (int i = 0; i < 1000; ++i) questions += Bytes(kGetFeatures);
  while (send(device.get(), questions.data(), questions.size(), MSG_NOSIGNAL) > 0) {
  }
  EXPECT_TRUE(errno == EPIPE || errno == ECONNRESET) << "the keeper hangs: " << strerror(errno);
  const UniqueFd next = Connect();
  Send(next, Bytes(kGetProtocolFeatures));
  serving.join();
  Send(back_end_, Bytes(kGetProtocolFeatures, OfWord(1)));
  EXPECT_EQ(Receive(next), Bytes(kGetProtocolFeatures, OfWord(1)));
}

TEST_F(ConnectionKeeperTest, ABackEndThatReadsNothingDoesNotKeepItFromEnding) {
  Start();
  const UniqueFd device = ConnectUntilAccepted();
  const std::string question = Bytes(kGetFeatures);
  pollfd ready = {.fd = device.get(), .events = POLLOUT, .revents = 0};
  while (poll(&ready, 1, 500) > 0) {
    ASSERT_GT(send(device.get(), question.data(), question.size(), MSG_NOSIGNAL), 0);
  }
  back_end_.reset();
  keeper_.join();
}

TEST_F(ConnectionKeeperTest, ConnectionsOfTheTimeBeforeAreClosed) {
  const UniqueFd early = Connect();
  Start();
  EXPECT_TRUE(IsAtEnd(early));
  EXPECT_TRUE(ConnectUntilAccepted().ok());
}

TEST_F(ConnectionKeeperTest, TheDeviceLosesItsConnectionWithTheBackEnd) {
  Start();
  const UniqueFd device = ConnectUntilAccepted();
  back_end_.reset();
  keeper_.join();
  keepers_end_.reset();
}

}  // namespace
}  // namespace bulkhead::vmm
