#include "vmm/vsock/vsock_hub.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/vsock_link.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);
constexpr absl::Duration kMoment = absl::Milliseconds(100);

sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

UniqueFd Listen(const std::string& path, int backlog = 64) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = Address(path);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd.get(), backlog), 0);
  return fd;
}

UniqueFd ConnectTo(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

bool IsReadable(const UniqueFd& fd, absl::Duration limit) {
  pollfd entry = {.fd = fd.get(), .events = POLLIN, .revents = 0};
  return poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(limit))) == 1;
}

struct Received {
  VsockAnswer answer;
  UniqueFd socket;
};

// What a device's process does.
class Device {
 public:
  explicit Device(VsockHub& hub) : link_(fcntl(hub.Connect(), F_DUPFD_CLOEXEC, 0)) {}

  void Send(VsockRequest::Kind kind, uint32_t id, uint32_t port = 0) const {
    const VsockRequest request = {.kind = kind, .id = id, .port = port};
    EXPECT_TRUE(SendSocketMessage(link_.get(),
                                  {reinterpret_cast<const char*>(&request), sizeof(request)}, {})
                    .ok());
  }
  absl::StatusOr<Received> Receive(absl::Duration limit = kPatience) const {
    absl::StatusOr<SocketMessage> message =
        ReceiveSocketMessage(link_.get(), sizeof(VsockAnswer), limit);
    if (!message.ok()) return message.status();
    Received received;
    memcpy(&received.answer, message->bytes.data(), sizeof(received.answer));
    if (!message->descriptors.empty()) received.socket = std::move(message->descriptors[0]);
    return received;
  }
  const UniqueFd& link() const { return link_; }

 private:
  UniqueFd link_;
};

class VsockHubTest : public testing::Test {
 protected:
  VsockHubTest() {
    char folder[] = "/tmp/vsock_hub_XXXXXX";
    EXPECT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    path = absl::StrCat(folder_, "/v");
    listening = Listen(path);
    const bool confined = SandboxLayers::InThisBuild().has(SandboxLayer::kVmm);
    hub = VsockHub::Create(path, listening.get(), confined).value();
  }
  ~VsockHubTest() override {
    hub.reset();
    std::filesystem::remove_all(folder_);
  }

  std::string folder_;
  std::string path;
  UniqueFd listening;
  std::unique_ptr<VsockHub> hub;
};

TEST_F(VsockHubTest, TheGuestsConnectionArrivesAtTheSocketOfItsPort) {
  const UniqueFd server = Listen(path + "_52");
  const Device device(*hub);
  device.Send(VsockRequest::kConnect, 7, 52);
  const absl::StatusOr<Received> received = device.Receive();
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(received->answer.kind, VsockAnswer::kConnected);
  EXPECT_EQ(received->answer.id, 7u);
  ASSERT_TRUE(received->socket.ok());
  const UniqueFd accepted(accept(server.get(), nullptr, nullptr));
  ASSERT_EQ(write(received->socket.get(), "hello", 5), 5);
  char bytes[6] = "";
  ASSERT_EQ(read(accepted.get(), bytes, 5), 5);
  EXPECT_STREQ(bytes, "hello");
}

TEST_F(VsockHubTest, WhatCannotBeConnectedIsRefused) {
  const UniqueFd file(open((path + "_2").c_str(), O_CREAT | O_CLOEXEC | O_RDWR, 0600));
  Listen(path + "_3").reset();  // nobody listens any more
  const UniqueFd full = Listen(path + "_4", 0);
  const UniqueFd first = ConnectTo(path + "_4");
  const Device device(*hub);
  for (uint32_t port = 1; port <= 4; ++port) {
    device.Send(VsockRequest::kConnect, port, port);
    const absl::StatusOr<Received> received = device.Receive();
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(received->answer.kind, VsockAnswer::kRefused) << port;
    EXPECT_EQ(received->answer.id, port);
  }
}

TEST_F(VsockHubTest, ClientsAreGivenToTheDeviceAsFarAsItGrants) {
  const Device device(*hub);
  const UniqueFd first = ConnectTo(path);
  const UniqueFd second = ConnectTo(path);
  EXPECT_TRUE(absl::IsDeadlineExceeded(device.Receive(kMoment).status()));
  device.Send(VsockRequest::kGrant, 1);
  const absl::StatusOr<Received> received = device.Receive();
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(received->answer.kind, VsockAnswer::kAccepted);
  ASSERT_EQ(write(first.get(), "x", 1), 1);
  EXPECT_TRUE(IsReadable(received->socket, kPatience));
  EXPECT_TRUE(absl::IsDeadlineExceeded(device.Receive(kMoment).status()));
  device.Send(VsockRequest::kGrant, 2);
  EXPECT_TRUE(device.Receive().ok());
}

TEST_F(VsockHubTest, TheListeningSocketOutlivesTheDevicesProcesses) {
  UniqueFd client;
  for (int i = 0; i < 20; ++i) {
    // A process that grants, and dies without having received its client.
    {
      const Device device(*hub);
      device.Send(VsockRequest::kGrant, 1);
      device.Send(VsockRequest::kConnect, 1, 1);
      client = ConnectTo(path);
      EXPECT_TRUE(IsReadable(device.link(), kPatience));
    }
    const Device successor(*hub);
    // Closed with the process, or it has waited for the successor.
    successor.Send(VsockRequest::kGrant, 1);
    const absl::StatusOr<Received> received = successor.Receive(kMoment);
    if (!received.ok()) {
      EXPECT_TRUE(IsReadable(client, kPatience)) << "a client is left hanging";
    }
    const UniqueFd next = ConnectTo(path);
    if (received.ok()) successor.Send(VsockRequest::kGrant, 2);
    EXPECT_TRUE(successor.Receive().ok()) << i;
  }
}

TEST_F(VsockHubTest, ADeadDeviceGetsNoClients) {
  {
    const Device device(*hub);
    device.Send(VsockRequest::kGrant, 5);
    const UniqueFd first = ConnectTo(path);
    ASSERT_TRUE(device.Receive().ok());
  }
  // It waits for the successor, without being given to the dead process.
  usleep(50'000);
  const UniqueFd client = ConnectTo(path);
  EXPECT_FALSE(IsReadable(client, kMoment));
  const Device successor(*hub);
  successor.Send(VsockRequest::kGrant, 1);
  EXPECT_TRUE(successor.Receive().ok());
}

TEST_F(VsockHubTest, AFloodOfRequestsIsAnsweredBoundedly) {
  const Device device(*hub);
  // More than may be under way: the rest waits in the socket, and nothing is lost.
  constexpr uint32_t kRequests = 600;
  uint32_t answers = 0;
  for (uint32_t sent = 0; sent < kRequests || answers < kRequests;) {
    const VsockRequest request = {.kind = VsockRequest::kConnect, .id = sent, .port = sent};
    if (sent < kRequests && sent - answers < 200 &&
        send(device.link().get(), &request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL) ==
            sizeof(request)) {
      ++sent;
      continue;
    }
    const absl::StatusOr<Received> received = device.Receive();
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(received->answer.kind, VsockAnswer::kRefused);
    ++answers;
  }
}

TEST_F(VsockHubTest, WhatIsNoRequestEndsTheLinkOnly) {
  {
    const Device device(*hub);
    ASSERT_EQ(send(device.link().get(), "nonsense, long", 14, MSG_NOSIGNAL), 14);
    EXPECT_TRUE(absl::IsUnavailable(device.Receive().status()));
  }
  {
    // With a descriptor: the kernel refuses it, or the hub does.
    const Device device(*hub);
    const VsockRequest request = {.kind = VsockRequest::kGrant, .id = 1};
    (void)SendSocketMessage(device.link().get(),
                            {reinterpret_cast<const char*>(&request), sizeof(request)}, {0});
  }
  {
    // A device that reads nothing of what it is granted.
    const Device device(*hub);
    std::vector<UniqueFd> clients;
    device.Send(VsockRequest::kGrant, ~uint32_t{0});
    for (int i = 0; i < 100; ++i) clients.push_back(ConnectTo(path));
    usleep(50'000);
  }
  const Device device(*hub);
  device.Send(VsockRequest::kGrant, 1);
  const UniqueFd client = ConnectTo(path);
  EXPECT_TRUE(device.Receive().ok());
}

}  // namespace
}  // namespace bulkhead::vmm
