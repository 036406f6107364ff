#include "base/close_elsewhere.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/testing/lingering_socket.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

// The test's own time limit judges.
TEST(CloseElsewhereTest, TheCallerDoesNotWaitForAnEnd) {
  LingeringSocket lingering;
  std::vector<UniqueFd> descriptors;
  descriptors.push_back(std::move(lingering.sender));
  CloseElsewhere(std::move(descriptors));
  CloseElsewhere(std::vector<UniqueFd>());
  lingering.receiver.reset();  // resets the connection, which ends the close
}

bool ComesTo(const PendingCloses& owner, size_t count) {
  return owner.WaitForFewerThan(count + 1, absl::Seconds(20)) && owner.count() == count;
}

TEST(CloseElsewhereTest, OneThatCannotBeClosedIsInTheWayOfNoOther) {
  LingeringSocket lingering;
  const auto stuck = std::make_shared<PendingCloses>();
  const auto other = std::make_shared<PendingCloses>();
  std::vector<UniqueFd> descriptors;
  descriptors.push_back(std::move(lingering.sender));
  for (int i = 0; i < 20; ++i) descriptors.emplace_back(dup(STDERR_FILENO));
  CloseElsewhere(std::move(descriptors), stuck);
  CloseElsewhere(UniqueFd(dup(STDERR_FILENO)), other);
  EXPECT_TRUE(ComesTo(*stuck, 1));
  EXPECT_TRUE(ComesTo(*other, 0));
  lingering.receiver.reset();
  EXPECT_TRUE(ComesTo(*stuck, 0));
}

TEST(CloseElsewhereTest, BeyondTheMostThatMayBlockTheOthersWaitAndAreCounted) {
  std::vector<LingeringSocket> lingering(kMaxClosers);
  const auto stuck = std::make_shared<PendingCloses>();
  const auto other = std::make_shared<PendingCloses>();
  for (LingeringSocket& one : lingering) CloseElsewhere(std::move(one.sender), stuck);
  CloseElsewhere(UniqueFd(dup(STDERR_FILENO)), other);
  EXPECT_EQ(stuck->count(), kMaxClosers);
  EXPECT_EQ(other->count(), 1);
  lingering[3].receiver.reset();
  EXPECT_TRUE(ComesTo(*other, 0));
  EXPECT_EQ(stuck->count(), kMaxClosers - 1);
  lingering.clear();
  EXPECT_TRUE(ComesTo(*stuck, 0));
}

TEST(RefuseDescriptorsTest, APeerCannotSendADescriptorThatWouldHoldTheReader) {
  LingeringSocket lingering;
  auto sockets = *CreateSocketPair(SOCK_STREAM);
  RefuseDescriptors(sockets.first.get());
  const absl::Status sent = SendSocketMessage(sockets.second.get(), "x", {lingering.sender.get()});
  int refuses = 1;
  socklen_t size = sizeof(refuses);
  constexpr int kPassRights = 83;
  if (getsockopt(sockets.first.get(), SOL_SOCKET, kPassRights, &refuses, &size) != 0) {
    EXPECT_EQ(errno, ENOPROTOOPT);  // before Linux 6.16: sent as ever
    EXPECT_TRUE(sent.ok());
    lingering.receiver.reset();
    return;
  }
  EXPECT_EQ(refuses, 0);
  EXPECT_FALSE(sent.ok());
  // The other direction is as it was.
  EXPECT_TRUE(SendSocketMessage(sockets.first.get(), "x", {STDERR_FILENO}).ok());
  lingering.receiver.reset();
}

}  // namespace
}  // namespace bulkhead
