#include "vmm/process/control_relay.h"

#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/close_elsewhere.h"
#include "base/message_socket.h"
#include "base/steady_time.h"
#include "base/testing/lingering_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);

class ControlRelayTest : public testing::Test {
 protected:
  void SetUp() override {
    auto sockets = *CreateSocketPair(SOCK_STREAM);
    process_ = std::move(sockets.second);
    auto connected = *(*ControlRelay::Get())->Connect(std::move(sockets.first), 0, closes_);
    connection_ = std::move(connected.first);
    grpc_ = std::move(connected.second);
  }

  static bool Send(const UniqueFd& socket, absl::string_view bytes) {
    return send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
           static_cast<ssize_t>(bytes.size());
  }
  // So many bytes, or fewer up to the end of the stream.
  static std::string Read(const UniqueFd& socket, size_t bytes = ~size_t{0}) {
    std::string all;
    const absl::Time deadline = SteadyNow() + kTimeout;
    while (all.size() < bytes && SteadyNow() < deadline) {
      char buffer[4096];
      const ssize_t n = recv(socket.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
      if (n == 0) break;
      if (n > 0) all.append(buffer, static_cast<size_t>(n));
      if (n < 0) absl::SleepFor(absl::Milliseconds(1));
    }
    return all;
  }
  std::string WhyCut() {
    const absl::Time deadline = SteadyNow() + kTimeout;
    while (connection_->why_cut().empty() && SteadyNow() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return std::string(connection_->why_cut());
  }

  const std::shared_ptr<PendingCloses> closes_ = std::make_shared<PendingCloses>();
  UniqueFd process_;
  UniqueFd grpc_;
  std::unique_ptr<ControlRelay::Connection> connection_;
};

TEST_F(ControlRelayTest, BytesArriveBothWays) {
  connection_->Allow(100);
  EXPECT_TRUE(Send(grpc_, "a call"));
  EXPECT_EQ(Read(process_, 6), "a call");
  EXPECT_TRUE(Send(process_, "an answer"));
  EXPECT_EQ(Read(grpc_, 9), "an answer");
  EXPECT_EQ(connection_->why_cut(), "");
}

TEST_F(ControlRelayTest, ALongAnswerWaitsForItsReader) {
  connection_->Allow(ControlRelay::kMaxAllowance);
  std::string sent;
  for (int i = 0; i < 16; ++i) {
    const std::string part(16384, static_cast<char>('a' + i));
    sent += part;
    ASSERT_EQ(send(process_.get(), part.data(), part.size(), 0), ssize_t{16384});
  }
  // The socket of gRPC holds less than that; the rest and the end come as it is read.
  process_.reset();
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(Read(grpc_), sent);
  EXPECT_EQ(connection_->why_cut(), "");
}

TEST_F(ControlRelayTest, TheEndOfOneSideIsTheEndOfTheOther) {
  grpc_.reset();
  EXPECT_EQ(Read(process_), "");
  EXPECT_EQ(connection_->why_cut(), "");
  SetUp();
  connection_.reset();
  EXPECT_EQ(Read(process_), "");
  EXPECT_EQ(Read(grpc_), "");
}

TEST_F(ControlRelayTest, MoreThanIsAllowedIsCut) {
  connection_->Allow(100);
  EXPECT_TRUE(Send(process_, std::string(101, 'x')));
  EXPECT_EQ(WhyCut(), "it sent more over its control connection than it was asked");
  EXPECT_EQ(Read(grpc_), "");
  EXPECT_EQ(Read(process_), "");
}

TEST_F(ControlRelayTest, AnAllowanceDoesNotGrowWithoutBound) {
  for (int i = 0; i < 10; ++i) connection_->Allow(ControlRelay::kMaxAllowance);
  const std::string part(16384, 'x');
  size_t sent = 0;
  while (send(process_.get(), part.data(), part.size(), MSG_NOSIGNAL) > 0) {
    sent += part.size();
    Read(grpc_, part.size());
  }
  EXPECT_NE(WhyCut(), "");
  EXPECT_LE(sent, ControlRelay::kMaxAllowance + part.size());
}

TEST_F(ControlRelayTest, TinyWritesUseTheAllowanceUpAsWell) {
  constexpr int kWrites = 10;
  connection_->Allow(kWrites * ControlRelay::kMinCharge);
  for (int i = 0; i < kWrites; ++i) {
    ASSERT_TRUE(Send(process_, "x"));
    ASSERT_EQ(Read(grpc_, 1), "x");
  }
  ASSERT_TRUE(Send(process_, "x"));
  EXPECT_NE(WhyCut(), "");
}

TEST_F(ControlRelayTest, AProcessThatReadsNothingIsCut) {
  const std::string part(1024, 'x');
  for (int i = 0; i < 10000 && connection_->why_cut().empty(); ++i) {
    Send(grpc_, part);
    absl::SleepFor(absl::Microseconds(10));
  }
  EXPECT_EQ(WhyCut(), "it did not read from its control connection");
}

TEST_F(ControlRelayTest, DescriptorsAreNotReceived) {
  LingeringSocket lingering;
  connection_->Allow(100);
  // From Linux 6.16 on the process cannot even send them.
  if (!SendSocketMessage(process_.get(), "x", {lingering.sender.get()}).ok()) return;
  lingering.sender.reset();
  process_.reset();
  EXPECT_EQ(WhyCut(), "it sent descriptors over its control connection");
  connection_.reset();
  EXPECT_EQ(closes_->count(), 1);
  // Others go on meanwhile.
  SetUp();
  EXPECT_TRUE(Send(grpc_, "a call"));
  EXPECT_EQ(Read(process_, 6), "a call");
  lingering.receiver.reset();
  EXPECT_TRUE(closes_->WaitForFewerThan(1, kTimeout));
}

}  // namespace
}  // namespace bulkhead::vmm
