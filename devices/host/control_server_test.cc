#include "devices/host/control_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/control_mailbox.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/support/channel_arguments.h"
#include "gtest/gtest.h"
#include "proto/device_control.grpc.pb.h"

namespace bulkhead::devices {
namespace {

using CommandType = ControlMailbox::CommandType;
using Command = ControlMailbox::Command;

constexpr absl::Duration kLong = absl::Seconds(30);        // never passes in a test that works
constexpr absl::Duration kShort = absl::Milliseconds(50);  // passes where nothing is expected

class ControlServerTest : public testing::Test {
 protected:
  ControlServerTest() {
    std::pair<UniqueFd, UniqueFd> sockets = *CreateSocketPair(SOCK_STREAM);
    v1::DeviceInfo info;
    info.set_model("test");
    server_ = *ControlServer::Start(std::move(sockets.first), info, *mailbox_);
    fcntl(sockets.second.get(), F_SETFL, O_NONBLOCK);
    stub_ = v1::DeviceControl::NewStub(grpc::CreateCustomInsecureChannelFromFd(
        "device", sockets.second.release(), grpc::ChannelArguments()));
  }
  ~ControlServerTest() override { StopDataPlane(); }

  // Beats and gives every command to `on_command`.
  void StartDataPlane(std::function<absl::Status(Command&)> on_command) {
    data_plane_ = std::thread([this, on_command = std::move(on_command)] {
      while (!stop_) {
        pollfd events = {.fd = mailbox_->event_fd(), .events = POLLIN, .revents = 0};
        poll(&events, 1, /*timeout=*/100);
        mailbox_->Acknowledge();
        if (mailbox_->heartbeat_wanted()) mailbox_->Beat();
        while (const auto command = mailbox_->Take(/*metrics_only=*/false)) {
          mailbox_->Finish(*command, on_command(*command));
        }
      }
    });
  }
  void StopDataPlane() {
    stop_ = true;
    if (data_plane_.joinable()) data_plane_.join();
  }
  std::shared_ptr<Command> AwaitCommand() {
    std::shared_ptr<Command> command;
    const absl::Time deadline = absl::Now() + kLong;
    while (command == nullptr && absl::Now() < deadline) {
      pollfd events = {.fd = mailbox_->event_fd(), .events = POLLIN, .revents = 0};
      poll(&events, 1, /*timeout=*/100);
      mailbox_->Acknowledge();
      command = mailbox_->Take(/*metrics_only=*/false);
    }
    return command;
  }

  template <typename Request, typename Reply>
  grpc::Status Call(grpc::Status (v1::DeviceControl::Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Reply*),
                    Reply* reply, absl::Duration timeout = kLong) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    return (stub_.get()->*method)(&context, Request(), reply);
  }
  grpc::StatusCode Heartbeat(absl::Duration timeout = kLong) {
    v1::HeartbeatReply reply;
    return Call(&v1::DeviceControl::Stub::Heartbeat, &reply, timeout).error_code();
  }
  grpc::Status Reset(absl::Duration timeout = kLong) {
    v1::ResetReply reply;
    return Call(&v1::DeviceControl::Stub::Reset, &reply, timeout);
  }
  grpc::Status Quiesce() {
    v1::QuiesceReply reply;
    return Call(&v1::DeviceControl::Stub::Quiesce, &reply);
  }

  const std::unique_ptr<ControlMailbox> mailbox_ = *ControlMailbox::Create();
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<v1::DeviceControl::Stub> stub_;
  std::atomic<bool> stop_{false};
  std::thread data_plane_;
};

TEST_F(ControlServerTest, DescribeNeedsNoDataPlane) {
  v1::DeviceInfo info;
  ASSERT_TRUE(Call(&v1::DeviceControl::Stub::Describe, &info).ok());
  EXPECT_EQ(info.model(), "test");
}

TEST_F(ControlServerTest, AHeartbeatComesFromTheDataPlane) {
  EXPECT_EQ(Heartbeat(kShort), grpc::StatusCode::DEADLINE_EXCEEDED);
  StartDataPlane([](Command&) { return absl::OkStatus(); });
  ASSERT_EQ(Heartbeat(), grpc::StatusCode::OK);
}

TEST_F(ControlServerTest, EachCallIsItsCommand) {
  std::vector<CommandType> commands;
  absl::Mutex mutex;
  StartDataPlane([&](Command& command) {
    absl::MutexLock lock(&mutex);
    commands.push_back(command.type);
    if (command.type == CommandType::kGetMetrics) command.metrics.add_metrics()->set_value(5);
    return absl::OkStatus();
  });
  v1::ResumeDeviceReply resume;
  v1::ShutdownDeviceReply shutdown;
  v1::DeviceMetrics metrics;
  EXPECT_TRUE(Reset().ok());
  EXPECT_TRUE(Quiesce().ok());
  EXPECT_TRUE(Call(&v1::DeviceControl::Stub::Resume, &resume).ok());
  EXPECT_TRUE(Call(&v1::DeviceControl::Stub::GetMetrics, &metrics).ok());
  EXPECT_TRUE(Call(&v1::DeviceControl::Stub::Shutdown, &shutdown).ok());
  EXPECT_EQ(commands, (std::vector<CommandType>{CommandType::kReset, CommandType::kQuiesce,
                                                CommandType::kResume, CommandType::kGetMetrics,
                                                CommandType::kShutdown}));
  ASSERT_EQ(metrics.metrics_size(), 1);
  EXPECT_EQ(metrics.metrics(0).value(), 5);
}

TEST_F(ControlServerTest, ErrorsComeThroughWithTheirText) {
  StartDataPlane([](Command&) { return absl::FailedPreconditionError("not now"); });
  const grpc::Status status = Quiesce();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "not now");
}

TEST_F(ControlServerTest, WhatWaitsHoldsUpNothingElse) {
  std::vector<std::thread> waiting;
  for (int i = 0; i < 2; ++i) waiting.emplace_back([this] { Reset(); });
  const auto first = AwaitCommand();
  const auto second = AwaitCommand();
  ASSERT_TRUE(first != nullptr && second != nullptr);
  StartDataPlane([](Command&) { return absl::OkStatus(); });
  EXPECT_EQ(Heartbeat(), grpc::StatusCode::OK);
  EXPECT_TRUE(Quiesce().ok());
  mailbox_->Finish(*first, absl::OkStatus());
  mailbox_->Finish(*second, absl::OkStatus());
  for (std::thread& thread : waiting) thread.join();
}

TEST_F(ControlServerTest, ACallThatIsGivenUpIsAbandonedInTheMailbox) {
  v1::DeviceInfo info;
  EXPECT_TRUE(Call(&v1::DeviceControl::Stub::Describe, &info).ok());  // the connection stands
  std::thread caller(
      [this] { EXPECT_EQ(Reset(10 * kShort).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED); });
  const auto command = AwaitCommand();
  caller.join();
  ASSERT_NE(command, nullptr);
  const absl::Time deadline = absl::Now() + kLong;
  while (!mailbox_->IsAbandoned(*command) && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_FALSE(mailbox_->Finish(*command, absl::OkStatus()));
}

TEST_F(ControlServerTest, ACancelledCallIsAbandonedInTheMailbox) {
  grpc::ClientContext context;
  std::thread caller([&] {
    v1::QuiesceReply reply;
    EXPECT_EQ(stub_->Quiesce(&context, v1::QuiesceRequest(), &reply).error_code(),
              grpc::StatusCode::CANCELLED);
  });
  const auto command = AwaitCommand();
  context.TryCancel();
  caller.join();
  ASSERT_NE(command, nullptr);
  const absl::Time deadline = absl::Now() + kLong;
  while (!mailbox_->IsAbandoned(*command) && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(mailbox_->IsAbandoned(*command));
}

TEST_F(ControlServerTest, TheEndOfTheServerReleasesWhoWaits) {
  std::thread caller([this] { EXPECT_FALSE(Reset().ok()); });
  ASSERT_NE(AwaitCommand(), nullptr);
  server_.reset();
  caller.join();
}

}  // namespace
}  // namespace bulkhead::devices
