#include <sys/mman.h>

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

// One device process after the other on one channel.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;
using absl::StatusCode;

constexpr absl::Duration kAtOnce = absl::ZeroDuration();
constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works

class SuccessorTest : public testing::Test {
 protected:
  void SetUp() override {
    client_ = *ChannelClient::Create({.slots = 8, .waiters = 2, .max_poll = absl::ZeroDuration()});
    response_ = *MemoryMapping::Map(client_->response_memory_fd(), 0, ResponseView::SizeBytes(2),
                                    MemoryMapping::Protection::kReadWrite);
  }

  void Post(uint64_t value) { ASSERT_TRUE(client_->Post(0, 0, 0, 8, value, kAtOnce).ok()); }
  // What a process leaves behind.
  std::atomic<uint64_t>& head() { return ResponseView(response_.data()).header().head; }

  std::unique_ptr<ChannelClient> client_;
  MemoryMapping response_;
};

Request Next(ChannelServer& server) {
  Request request;
  while (!server.TryPeek(request)) std::this_thread::yield();
  return request;
}

TEST_F(SuccessorTest, AnswersTheReadThatItsPredecessorFetchedAndDiedWith) {
  auto server = *ConnectServer(*client_, /*generation=*/1);
  absl::StatusOr<uint64_t> answer;
  std::thread vcpu([&] { answer = client_->Call(Operation::kRead, 1, 0, 0x30, 4, 0, kLong); });
  ChannelPeer::AwaitSleep(*client_, 1);
  EXPECT_EQ(Next(*server).offset, 0x30u);
  server.reset();  // dies here

  ASSERT_TRUE(client_->PrepareSuccessor(false).ok());
  server = *ConnectServer(*client_, /*generation=*/2);
  EXPECT_EQ(client_->device_report().generation, 2u);
  const Request request = Next(*server);
  EXPECT_EQ(request.offset, 0x30u);
  EXPECT_EQ(request.ticket, 1u);
  server->Complete(request, 77);
  vcpu.join();
  EXPECT_EQ(*answer, 77u);
}

TEST_F(SuccessorTest, TakesPostedWritesFromTheFirstThatWasNotWhollyProcessed) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 5; ++i) Post(i);
  server->Retire(Next(*server));
  server->Retire(Next(*server));
  EXPECT_EQ(Next(*server).data, 3u);
  server.reset();
  Post(6);  // while nobody is there

  server = *ConnectServer(*client_, 2);
  for (uint64_t i = 3; i <= 6; ++i) {
    EXPECT_EQ(Next(*server).data, i);
    server->Retire(Next(*server));
  }
}

TEST_F(SuccessorTest, IsNotBelievedToSleepBecauseItsPredecessorDiedAsleep) {
  auto server = *ConnectServer(*client_, 1);
  ASSERT_TRUE(server->PrepareToSleep());
  server.reset();
  Post(1);
  server = *ConnectServer(*client_, 2);
  EXPECT_EQ(Next(*server).data, 1u);
  server->Retire(Next(*server));
  ASSERT_TRUE(server->PrepareToSleep());
  Post(2);
  EXPECT_FALSE(server->PrepareToSleep());
  server->AfterSleep();
  EXPECT_EQ(Next(*server).data, 2u);
}

TEST_F(SuccessorTest, AttachesAtEveryPlaceOfTheRingFullOrNot) {
  auto server = *ConnectServer(*client_, 1);
  uint64_t sent = 0;
  uint64_t done = 0;
  for (int round = 0; round < 40; ++round) {
    while (sent < done + 8 - (round % 3)) Post(++sent);
    server = *ConnectServer(*client_, round + 2);
    for (int i = 0; i < 1 + round % 5; ++i) {
      ASSERT_EQ(Next(*server).data, ++done);
      server->Retire(Next(*server));
    }
  }
}

TEST_F(SuccessorTest, RefusesAHeadThatNoProcessCanHaveLeft) {
  for (uint64_t i = 1; i <= 6; ++i) Post(i);
  for (const uint64_t impossible :
       {uint64_t{7}, uint64_t{8}, uint64_t{9}, uint64_t{100}, uint64_t{1} << 63, UINT64_MAX}) {
    head().store(impossible);
    EXPECT_EQ(ConnectServer(*client_, 2).status().code(), StatusCode::kDataLoss) << impossible;
  }
  for (uint64_t possible = 0; possible <= 6; ++possible) {
    head().store(possible);
    EXPECT_TRUE(ConnectServer(*client_, 2).ok()) << possible;
  }
}

TEST_F(SuccessorTest, RefusesAHeadWhoseRequestsAreOverwritten) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 12; ++i) {
    Post(i);
    server->Retire(Next(*server));
  }
  for (const uint64_t impossible : {0, 1, 3, 13, 20}) {
    head().store(impossible);
    EXPECT_EQ(ConnectServer(*client_, 2).status().code(), StatusCode::kDataLoss) << impossible;
  }
}

TEST_F(SuccessorTest, StartsAtTheLastHeadFoundPossibleWhereItsPredecessorLeftAnImpossibleOne) {
  auto server = *ConnectServer(*client_, 1);
  for (uint64_t i = 1; i <= 3; ++i) {
    Post(i);
    server->Retire(Next(*server));
  }
  ASSERT_TRUE(client_->PrepareSuccessor(false)->violation.ok());
  Post(4);
  for (const uint64_t impossible : {uint64_t{2}, uint64_t{5}, UINT64_MAX}) {
    head().store(impossible);
    const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
    EXPECT_EQ(plan->violation.code(), StatusCode::kDataLoss);
    EXPECT_EQ(plan->head, 3u);
    EXPECT_EQ(plan->waiting, 1u);
  }
  EXPECT_TRUE(client_->PrepareSuccessor(false)->violation.ok()) << "repaired";
  server = *ConnectServer(*client_, 2);
  EXPECT_EQ(server->processed(), 3u);
  EXPECT_EQ(server->VisibleTail(), 4u);
  EXPECT_EQ(Next(*server).data, 4u);
}

}  // namespace
}  // namespace bulkhead::channel
