// Which requests, in flight or later, report that data could not be written back.
#include "devices/virtio_blk/writeback_failures.h"

#include <errno.h>
#include <stdint.h>

#include <memory>
#include <utility>
#include <vector>

#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/block_request.h"
#include "devices/virtio_blk/dirty_map.h"
#include "devices/virtio_blk/testing/test_request.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using Step = BlockRequest::Step;
using Kind = FileOperation::Kind;

// A request whose one operation ends with that result.
uint8_t StatusOf(BlockRequest& request, int32_t result, const BlockContext& context) {
  EXPECT_EQ(request.OnResult(result, context), Step::kDone);
  return request.status();
}

class WritebackFailureTest : public testing::Test {
 protected:
  WritebackFailureTest() {
    context_.write_through = true;
    context_.dirty = &dirty_;
    context_.failures = &failures_;
  }
  // In flight.
  BlockRequest& Flush() { return Begin({kBlockFlushCommand, 0, 0}, {}); }
  BlockRequest& Write() { return Begin({kBlockOut, 0, 3}, std::vector<uint8_t>(512)); }
  // The discard itself is done.
  BlockRequest& SyncOfDiscard() {
    BlockRequest& request = Begin({kBlockDiscardCommand, 0, 0}, RangeBytes({{0, 4, 0}}));
    EXPECT_EQ(request.OnResult(0, context_), Step::kOperate);
    EXPECT_EQ(request.operation().kind, Kind::kSync);
    return request;
  }
  uint8_t Succeed(BlockRequest& request) {
    return StatusOf(request, request.operation().kind == Kind::kWrite ? 512 : 0, context_);
  }
  uint8_t Fail(BlockRequest& request) { return StatusOf(request, -EIO, context_); }

  BlockContext context_ = Context();
  DirtyMap dirty_{1 << 20};
  WritebackFailures failures_;

 private:
  struct Pending {
    TestRequest bytes;
    BlockRequest request;
  };
  BlockRequest& Begin(const BlockHeader& header, std::vector<uint8_t> data) {
    pending_.push_back(std::make_unique<Pending>(Pending{{header, std::move(data), 0}, {}}));
    Pending& p = *pending_.back();
    EXPECT_EQ(p.request.Begin(p.bytes.Chain(), context_), Step::kOperate);
    return p.request;
  }
  std::vector<std::unique_ptr<Pending>> pending_;
};

TEST_F(WritebackFailureTest, AFailedFlushFailsAllThatWereInFlight) {
  BlockRequest &told = Flush(), &other = Flush(), &write = Write(), &discard = SyncOfDiscard();
  EXPECT_EQ(Fail(told), kBlockStatusIoError);
  EXPECT_EQ(Succeed(other), kBlockStatusIoError);
  EXPECT_EQ(other.error_number(), EIO);
  EXPECT_EQ(Succeed(write), kBlockStatusIoError);
  EXPECT_EQ(Succeed(discard), kBlockStatusIoError);
  EXPECT_EQ(Succeed(Flush()), kBlockStatusOk);
  EXPECT_EQ(Succeed(Write()), kBlockStatusOk);
}

TEST_F(WritebackFailureTest, AFailedDurableWriteFailsAllThatWereInFlightAndTheNextFlush) {
  BlockRequest &told = Write(), &other = Write(), &discard = SyncOfDiscard(), &flush = Flush();
  EXPECT_EQ(Fail(told), kBlockStatusIoError);
  EXPECT_EQ(Succeed(other), kBlockStatusIoError);
  EXPECT_EQ(Succeed(discard), kBlockStatusIoError);
  EXPECT_EQ(Succeed(Write()), kBlockStatusOk) << "one that began later";
  EXPECT_TRUE(failures_.OwesFlush());
  EXPECT_EQ(Succeed(flush), kBlockStatusIoError);
  EXPECT_FALSE(failures_.OwesFlush());
  EXPECT_EQ(Succeed(Flush()), kBlockStatusOk);
}

TEST_F(WritebackFailureTest, AFailedSyncOfADiscardFailsAllThatWereInFlightAndTheNextFlush) {
  BlockRequest &told = SyncOfDiscard(), &write = Write();
  EXPECT_EQ(Fail(told), kBlockStatusIoError);
  EXPECT_EQ(Succeed(write), kBlockStatusIoError);
  EXPECT_EQ(Succeed(Flush()), kBlockStatusIoError);
  EXPECT_EQ(Succeed(Flush()), kBlockStatusOk);
}

TEST_F(WritebackFailureTest, WhatPromisesNothingSucceeds) {
  context_.write_through = false;
  BlockRequest& write = Write();
  EXPECT_EQ(Fail(Flush()), kBlockStatusIoError);
  EXPECT_EQ(Succeed(write), kBlockStatusOk);
  failures_.Failed();
  EXPECT_EQ(Succeed(Write()), kBlockStatusOk);
}

TEST_F(WritebackFailureTest, ADirectWriteThatFailsIsNoFailedWriteback) {
  context_.is_direct = true;
  BlockRequest &bad = Write(), &other = Write();
  EXPECT_EQ(Fail(bad), kBlockStatusIoError);
  EXPECT_EQ(Succeed(other), kBlockStatusOk);
  EXPECT_EQ(Succeed(Flush()), kBlockStatusOk);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
