#include "base/message_socket.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/close_elsewhere.h"
#include "base/event_fd.h"
#include "base/testing/lingering_socket.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

class MessageSocketTest : public testing::Test {
 protected:
  absl::StatusOr<SocketMessage> Receive(size_t max_bytes) {
    return ReceiveSocketMessage(ends_.second.get(), max_bytes, absl::Seconds(5));
  }

  std::pair<UniqueFd, UniqueFd> ends_ = *CreateSocketPair(SOCK_SEQPACKET);
};

TEST_F(MessageSocketTest, PassesBytesAndTheMostDescriptorsThatThereMayBe) {
  const EventFd event = *EventFd::Create();
  const std::vector<int> fds(kMaxMessageDescriptors, event.fd());
  ASSERT_TRUE(SendSocketMessage(ends_.first.get(), "hello", fds).ok());
  absl::StatusOr<SocketMessage> message = Receive(5);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->bytes, "hello");
  ASSERT_EQ(message->descriptors.size(), kMaxMessageDescriptors);
  EXPECT_EQ(fcntl(message->descriptors[0].get(), F_GETFD), FD_CLOEXEC);
  const EventFd received(std::move(message->descriptors.back()));
  event.Signal();
  EXPECT_TRUE(received.Drain());
}

TEST_F(MessageSocketTest, RefusesToSendMoreDescriptorsThanFit) {
  const std::vector<int> fds(kMaxMessageDescriptors + 1, 0);
  EXPECT_EQ(SendSocketMessage(ends_.first.get(), "x", fds).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MessageSocketTest, AFullSocketIsAShortageAndNotAPeerThatIsGone) {
  const auto sockets = *CreateSocketPair(SOCK_SEQPACKET);
  absl::Status status;
  while (status.ok()) status = SendSocketMessage(sockets.first.get(), std::string(1000, 'x'), {});
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(MessageSocketTest, RefusesAMessageThatIsTooLong) {
  ASSERT_TRUE(SendSocketMessage(ends_.first.get(), "123456", {}).ok());
  EXPECT_EQ(Receive(5).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MessageSocketTest, RefusesAMessageWhoseDescriptorsDoNotFitIntoTheProcess) {
  const EventFd event = *EventFd::Create();
  const std::vector<int> fds(8, event.fd());
  ASSERT_TRUE(SendSocketMessage(ends_.first.get(), "x", fds).ok());
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(event.fd()) + 2;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const absl::StatusOr<SocketMessage> message = Receive(5);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(message.status().code(), absl::StatusCode::kResourceExhausted);
}

// Here the kernel lets the peer send descriptors, as those before Linux 6.16 do always. A reader
// that took and closed the last reference to such a socket would not come back within the test's
// time.
TEST_F(MessageSocketTest, DescriptorsOfAPeerThatIsNotTrustedStayInTheSocket) {
  const std::string too_long = "123456";
  const std::string fits = "1";
  for (const std::string& bytes : {too_long, fits, std::string()}) {
    auto ends = *CreateSocketPair(SOCK_SEQPACKET);
    LingeringSocket lingering;
    ASSERT_TRUE(SendSocketMessage(ends.first.get(), "first", {}).ok());
    ASSERT_TRUE(SendSocketMessage(ends.first.get(), bytes, {lingering.sender.get()}).ok());
    lingering.sender.reset();
    EXPECT_EQ(*ReceivePlainMessage(ends.second.get(), 5, absl::Seconds(5)), "first");
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(ReceivePlainMessage(ends.second.get(), 5, absl::Seconds(5)).status().code(),
                absl::StatusCode::kInvalidArgument);
    }
    const auto owner = std::make_shared<PendingCloses>();
    ends.first.reset();
    CloseElsewhere(std::move(ends.second), owner);
    EXPECT_EQ(owner->count(), 1);
    lingering.receiver.reset();
  }
}

TEST_F(MessageSocketTest, APlainMessageHasTheErrorsOfAnyOther) {
  const auto receive = [this] {
    return ReceivePlainMessage(ends_.second.get(), 5, absl::Milliseconds(1)).status().code();
  };
  EXPECT_EQ(receive(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(SendSocketMessage(ends_.first.get(), "123456", {}).ok());
  EXPECT_EQ(receive(), absl::StatusCode::kInvalidArgument);
  ends_.first.reset();
  EXPECT_EQ(receive(), absl::StatusCode::kUnavailable);
}

TEST_F(MessageSocketTest, TellsThatThePeerIsGone) {
  ends_.first.reset();
  EXPECT_EQ(Receive(5).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(SendSocketMessage(ends_.second.get(), "x", {}).code(), absl::StatusCode::kUnavailable);
}

TEST_F(MessageSocketTest, WaitsWhileTooManyDescriptorsOfTheUserAreOnTheirWay) {
  const EventFd event = *EventFd::Create();
  const std::pair<UniqueFd, UniqueFd> other = *CreateSocketPair(SOCK_SEQPACKET);
  rlimit before;
  getrlimit(RLIMIT_NOFILE, &before);
  // UndefinedBehaviorSanitizer opens some itself while it checks.
  const rlimit low = {.rlim_cur = 64, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &low);
  const std::vector<int> fds(100, event.fd());
  ASSERT_TRUE(SendSocketMessage(other.first.get(), "x", fds).ok());
  // Not read: as many as the limit are on their way. (Privileged processes have no limit.)
  const absl::Status full = SendSocketMessage(ends_.first.get(), "x", fds);
  EXPECT_TRUE(full.ok() || absl::IsResourceExhausted(full)) << full;
  std::thread reader([&] {
    absl::SleepFor(absl::Milliseconds(10));
    char byte;  // without room for the descriptors: the kernel drops them
    EXPECT_EQ(recv(other.second.get(), &byte, 1, 0), 1);
  });
  EXPECT_TRUE(SendSocketMessage(ends_.first.get(), "x", fds).ok());
  reader.join();
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(MessageSocketTest, GivesUpAtTheDeadline) {
  EXPECT_EQ(ReceiveSocketMessage(ends_.second.get(), 5, absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace bulkhead
