#include <poll.h>

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

// Both ends as they are meant to be used, in one process.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;

constexpr absl::Duration kSoon = absl::Milliseconds(20);
constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works

// One device: answers a read with its offset plus one, until told to stop.
class EchoDevice {
 public:
  explicit EchoDevice(std::unique_ptr<ChannelServer> server)
      : server_(std::move(server)), thread_([this] { Run(); }) {}
  ~EchoDevice() {
    stop_.store(true);
    thread_.join();
  }

 private:
  void Run() {
    while (!stop_.load()) {
      Request request;
      while (server_->TryPeek(request)) {
        if (request.operation == Operation::kPostedWrite) {
          server_->Retire(request);
        } else {
          server_->Complete(request, request.offset + 1);
        }
      }
      if (server_->PollForRequest([] { return false; })) continue;
      if (!server_->PrepareToSleep()) continue;
      pollfd event = {.fd = server_->event_fd(), .events = POLLIN, .revents = 0};
      poll(&event, 1, 10);
      server_->AfterSleep();
    }
  }

  std::unique_ptr<ChannelServer> server_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST(ChannelTest, ServerSeesARequestAsItWasSent) {
  auto client = *ChannelClient::Create({.waiters = 2});
  auto server = *ConnectServer(*client);
  Request request;
  EXPECT_FALSE(server->TryPeek(request));
  ASSERT_TRUE(client->Post(1, 5, 0xfedcba9876543210, 4, 0x1122334455667788, kSoon).ok());
  ASSERT_TRUE(server->TryPeek(request));
  EXPECT_EQ(request.operation, Operation::kPostedWrite);
  EXPECT_EQ(request.waiter, 1);
  EXPECT_EQ(request.region, 5);
  EXPECT_EQ(request.offset, 0xfedcba9876543210);
  EXPECT_EQ(request.size_bytes, 4);
  EXPECT_EQ(request.data, 0x55667788u) << "only the bytes of the access";
  EXPECT_EQ(request.ticket, 1u);
  server->Retire(request);
  EXPECT_FALSE(server->TryPeek(request));
}

TEST(ChannelTest, ReadIsAnsweredWithTheBytesOfItsSize) {
  auto client = *ChannelClient::Create({.waiters = 1});
  EchoDevice device(*ConnectServer(*client));
  EXPECT_EQ(*client->Call(Operation::kRead, 0, 0, 0x1234, 8, 0, kLong), 0x1235u);
  EXPECT_EQ(*client->Call(Operation::kRead, 0, 0, 0x12ff, 1, 0, kLong), 0u);
}

}  // namespace
}  // namespace bulkhead::channel
