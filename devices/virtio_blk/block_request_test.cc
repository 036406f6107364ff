#include "devices/virtio_blk/block_request.h"

#include <errno.h>
#include <linux/falloc.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio_blk/testing/test_request.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using Step = BlockRequest::Step;
using Kind = FileOperation::Kind;

TEST(BlockRequestTest, AReadBecomesOneOperationOnTheDataBuffers) {
  TestRequest t({kBlockIn, 0, 7}, {}, 1024);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  const FileOperation& operation = request.operation();
  EXPECT_EQ(operation.kind, Kind::kRead);
  EXPECT_EQ(operation.offset, 7 * kSectorSize);
  ASSERT_EQ(operation.buffers.size(), 1u);
  EXPECT_EQ(operation.buffers[0].iov_base, t.writable.data());
  EXPECT_EQ(operation.buffers[0].iov_len, 1024u);
  ASSERT_EQ(request.OnResult(1024, Context()), Step::kDone);
  EXPECT_EQ(t.status(), kUntouched) << "the status is written last, by Finish()";
  EXPECT_EQ(request.Finish(), 1025u);
  EXPECT_EQ(t.status(), kBlockStatusOk);
}

TEST(BlockRequestTest, AnyCutIntoDescriptorsMeansTheSame) {
  for (size_t cut = 1; cut < 40; ++cut) {
    std::vector<uint8_t> data(512);
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 7);
    TestRequest t({kBlockOut, 0, 3}, data, 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(cut), Context()), Step::kOperate) << cut;
    EXPECT_EQ(request.operation().kind, Kind::kWrite);
    EXPECT_EQ(request.operation().offset, 3 * kSectorSize);
    std::vector<uint8_t> seen;
    for (const iovec& buffer : request.operation().buffers) {
      const uint8_t* bytes = static_cast<const uint8_t*>(buffer.iov_base);
      seen.insert(seen.end(), bytes, bytes + buffer.iov_len);
    }
    EXPECT_EQ(seen, data) << cut;
    ASSERT_EQ(request.OnResult(512, Context()), Step::kDone);
    EXPECT_EQ(request.Finish(), 1u);
    EXPECT_EQ(t.status(), kBlockStatusOk);
  }
}

TEST(BlockRequestTest, AShortTransferGoesOnWhereItStopped) {
  TestRequest t({kBlockIn, 0, 0}, {}, 1024);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(300), Context()), Step::kOperate);
  ASSERT_EQ(request.OnResult(450, Context()), Step::kOperate);
  EXPECT_EQ(request.operation().offset, 450u);
  ASSERT_EQ(request.operation().buffers.size(), 3u);
  EXPECT_EQ(request.operation().buffers[0].iov_base, &t.writable[450]);
  EXPECT_EQ(request.operation().buffers[0].iov_len, 150u);
  ASSERT_EQ(request.OnResult(150, Context()), Step::kOperate);
  EXPECT_EQ(request.operation().buffers[0].iov_base, &t.writable[600]);
  ASSERT_EQ(request.OnResult(424, Context()), Step::kDone);
  EXPECT_EQ(request.Finish(), 1025u);
}

TEST(BlockRequestTest, InterruptedOperationsAreRepeatedButNotForEver) {
  TestRequest t({kBlockIn, 0, 0}, {}, 512);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  int repeated = 0;
  while (request.OnResult(-EINTR, Context()) == Step::kOperate) ASSERT_LT(++repeated, 100);
  EXPECT_GT(repeated, 1);
  EXPECT_EQ(request.error_number(), EINTR);
  EXPECT_EQ(request.Finish(), 0u);
  EXPECT_EQ(t.status(), kBlockStatusIoError);
}

TEST(BlockRequestTest, OperationsThatLackedAThreadAreRepeatedButNotForEver) {
  TestRequest t({kBlockOut, 0, 0}, std::vector<uint8_t>(512), 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  uint32_t repeated = 0;
  while (request.OnResult(-ECANCELED, Context()) == Step::kOperateLater) {
    ASSERT_LE(++repeated, BlockRequest::kMaxPauses);
  }
  EXPECT_EQ(repeated, BlockRequest::kMaxPauses);
  EXPECT_EQ(request.error_number(), ECANCELED);
  EXPECT_EQ(request.Finish(), 1u);
  EXPECT_EQ(t.status(), kBlockStatusIoError);
}

TEST(BlockRequestTest, WhatCannotBeDoneWithoutWaitingIsGivenToAWorkerOnce) {
  TestRequest t({kBlockIn, 0, 0}, {}, 1024);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  EXPECT_FALSE(request.operation().blocking);
  ASSERT_EQ(request.OnResult(-EAGAIN, Context()), Step::kOperate);
  EXPECT_TRUE(request.operation().blocking);
  ASSERT_EQ(request.OnResult(512, Context()), Step::kOperate);
  EXPECT_FALSE(request.operation().blocking) << "the rest may be there already";
  ASSERT_EQ(request.OnResult(-EAGAIN, Context()), Step::kOperate);
  ASSERT_EQ(request.OnResult(-EAGAIN, Context()), Step::kDone) << "a worker's EAGAIN is an error";
  EXPECT_EQ(request.error_number(), EAGAIN);
}

// --- Bounded operations --------------------------------------------------------------------------

TEST(BlockRequestTest, ALargeTransferIsManyOperations) {
  constexpr uint64_t kMost = BlockRequest::kMaxTransferBytes;
  BlockContext context = Context();
  context.sectors = 3 * kMost / kSectorSize;
  context.max_bytes = 3 * kMost;
  std::vector<uint8_t> data(2 * kMost + 512);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 7 + i / 512);
  for (const size_t cut : {size_t{0}, size_t{300'000}, size_t{kMost}, size_t{1000}}) {
    TestRequest t({kBlockOut, 0, 1}, data, 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(cut), context), Step::kOperate);
    std::vector<uint8_t> seen;
    bool first = true;
    while (true) {
      const FileOperation& operation = request.operation();
      ASSERT_LE(operation.length, kMost);
      ASSERT_LE(operation.buffers.size(), BlockRequest::kMaxTransferBuffers);
      ASSERT_EQ(operation.offset, kSectorSize + seen.size());
      uint64_t left = operation.length;
      if (std::exchange(first, false)) {
        ASSERT_EQ(request.OnResult(-EINTR, context), Step::kOperate);
        ASSERT_EQ(request.operation().length, left) << "the same again";
        left = 1000;  // a short one
      }
      const int32_t moved = static_cast<int32_t>(left);
      for (const iovec& buffer : operation.buffers) {
        const uint8_t* bytes = static_cast<const uint8_t*>(buffer.iov_base);
        const uint64_t part = std::min<uint64_t>(buffer.iov_len, left);
        seen.insert(seen.end(), bytes, bytes + part);
        left -= part;
      }
      ASSERT_EQ(left, 0u);
      if (request.OnResult(moved, context) == Step::kDone) break;
    }
    EXPECT_EQ(seen, data) << cut;
    EXPECT_EQ(request.status(), kBlockStatusOk);
  }
}

TEST(BlockRequestTest, MoreBytesThanWereAskedForAreAnError) {
  TestRequest t({kBlockIn, 0, 0}, {}, 1024);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  ASSERT_EQ(request.OnResult(1025, Context()), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusIoError);
}

TEST(BlockRequestTest, LargeRangesAreDoneInPieces) {
  constexpr uint64_t kMost = BlockRequest::kMaxRangeBytes;
  BlockContext context = Context();
  context.sectors = context.max_discard_sectors = 1 << 21;
  for (const bool block_device : {false, true}) {
    context.is_block_device = block_device;
    TestRequest t({kBlockDiscardCommand, 0, 0}, RangeBytes({{8, (1 << 21) - 8, 0}}), 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
    uint64_t at = 8 * kSectorSize;
    do {
      EXPECT_EQ(request.operation().kind, block_device ? Kind::kDiscard : Kind::kAllocate);
      EXPECT_EQ(request.operation().offset, at);
      ASSERT_LE(request.operation().length, kMost);
      at += request.operation().length;
    } while (request.OnResult(0, context) == Step::kOperate);
    EXPECT_EQ(at, context.sectors * kSectorSize);
    EXPECT_EQ(request.status(), kBlockStatusOk);
  }
}

TEST(BlockRequestTest, AFlushOfMuchGoesByRegionsAndEndsWithASync) {
  BlockContext context = Context();
  DirtyMap dirty(uint64_t{1} << 30);
  dirty.SyncBegins();
  dirty.Wrote(0, 33 << 20);
  dirty.Wrote(512 << 20, 40 << 20);
  context.dirty = &dirty;
  TestRequest t({kBlockFlushCommand, 0, 0}, {}, 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
  EXPECT_EQ(request.operation().kind, Kind::kSyncRange);
  EXPECT_EQ(request.operation().offset, 0u);
  EXPECT_EQ(request.operation().length, DirtyMap::kMinRegionBytes);
  // 73 MiB are dirty; after the first region there is little enough for one sync.
  ASSERT_EQ(request.OnResult(0, context), Step::kOperate);
  EXPECT_EQ(request.operation().kind, Kind::kSync);
  EXPECT_EQ(request.OnResult(0, context), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusOk);
  EXPECT_FALSE(dirty.is_heavy());
}

TEST(BlockRequestTest, AFlushEndsThoughWritesGoOn) {
  BlockContext context = Context();
  DirtyMap dirty(uint64_t{1} << 30);
  context.dirty = &dirty;
  TestRequest t({kBlockFlushCommand, 0, 0}, {}, 0);
  BlockRequest request;
  Step step = request.Begin(t.Chain(), context);
  int operations = 0;
  for (; step == Step::kOperate; ++operations) {
    ASSERT_LT(operations, 1000);
    dirty.Wrote(0, uint64_t{1} << 30);
    step = request.OnResult(0, context);
  }
  EXPECT_GT(operations, 64);
  EXPECT_EQ(request.status(), kBlockStatusOk);
}

TEST(BlockRequestTest, AFileThatKnowsNoRangesIsSyncedAsAWhole) {
  BlockContext context = Context();
  DirtyMap dirty(uint64_t{1} << 30);
  context.dirty = &dirty;
  TestRequest t({kBlockFlushCommand, 0, 0}, {}, 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
  ASSERT_EQ(request.operation().kind, Kind::kSyncRange);
  ASSERT_EQ(request.OnResult(-ESPIPE, context), Step::kOperate);
  EXPECT_EQ(request.operation().kind, Kind::kSync);
  EXPECT_EQ(request.OnResult(0, context), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusOk);
}

TEST(BlockRequestTest, WritesAreCountedUntilTheyAreDurable) {
  BlockContext context = Context();
  DirtyMap dirty(uint64_t{1} << 30);
  context.dirty = &dirty;
  dirty.SyncBegins();
  DirtyMap::Region region;
  for (const bool durable : {true, false}) {
    context.write_through = durable;
    TestRequest t({kBlockOut, 0, 4}, std::vector<uint8_t>(1024), 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
    ASSERT_EQ(request.OnResult(1024, context), Step::kDone);
    EXPECT_EQ(dirty.Find(0, region), !durable);
  }
  EXPECT_EQ(region.dirty_sectors, 2u);
}

// The kernel tells one of them only.

// -------------------------------------------------------------------------------------------------

TEST(BlockRequestTest, AnErrorOrTheEndOfTheFileFailsTheRequest) {
  for (const int32_t result : {-EIO, -ENOSPC, 0}) {
    TestRequest t({kBlockIn, 0, 0}, {}, 512);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
    ASSERT_EQ(request.OnResult(result, Context()), Step::kDone) << result;
    EXPECT_EQ(request.error_number(), result == 0 ? EIO : -result);
    EXPECT_EQ(request.Finish(), 0u) << "no byte is promised to have been written";
    EXPECT_EQ(t.status(), kBlockStatusIoError);
  }
}

TEST(BlockRequestTest, WritesAreDurableInWriteThroughMode) {
  BlockContext context = Context();
  for (const bool write_through : {false, true}) {
    context.write_through = write_through;
    TestRequest t({kBlockOut, 0, 0}, std::vector<uint8_t>(512), 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
    EXPECT_EQ(request.operation().durable, write_through);
  }
}

TEST(BlockRequestTest, FlushSyncs) {
  TestRequest t({kBlockFlushCommand, 0, 0}, {}, 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  EXPECT_EQ(request.operation().kind, Kind::kSync);
  ASSERT_EQ(request.OnResult(0, Context()), Step::kDone);
  EXPECT_EQ(request.Finish(), 1u);
  EXPECT_EQ(t.status(), kBlockStatusOk);
}

TEST(BlockRequestTest, GetIdGivesUpToTwentyBytesPaddedWithZeros) {
  for (const size_t size : {4, 20, 32}) {
    TestRequest t({kBlockGetId, 0, 0}, {}, size);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(3), Context()), Step::kDone);
    std::vector<uint8_t> expected(size, kUntouched);
    const std::string id = std::string("disk-1") + std::string(14, '\0');
    memcpy(expected.data(), id.data(), std::min<size_t>(size, 20));
    const uint32_t length = request.Finish();
    EXPECT_EQ(length, size <= 20 ? size + 1 : 20);
    EXPECT_EQ(t.status(), kBlockStatusOk);
    t.writable.pop_back();
    EXPECT_EQ(t.writable, expected);
  }
}

TEST(BlockRequestTest, ErrorsThatCanBeMendedHoldARequestIfThatIsWanted) {
  BlockContext context = Context();
  context.hold_errors = true;
  for (const int error : {ENOSPC, EDQUOT, EIO}) {
    TestRequest t({kBlockOut, 0, 0}, std::vector<uint8_t>(1024), 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
    ASSERT_EQ(request.OnResult(512, context), Step::kOperate);
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(request.OnResult(-error, context), Step::kHold);
      EXPECT_EQ(request.error_number(), error);
      EXPECT_EQ(request.operation().offset, 512u);
      EXPECT_EQ(request.operation().length, 512u);
    }
    EXPECT_EQ(request.OnResult(512, context), Step::kDone);
    EXPECT_EQ(request.status(), kBlockStatusOk);
    EXPECT_EQ(request.error_number(), 0);
  }
  // The end of a file that is shorter than it was.
  TestRequest t({kBlockIn, 0, 0}, {}, 512);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
  EXPECT_EQ(request.OnResult(0, context), Step::kHold);
  EXPECT_EQ(request.error_number(), EIO);
  EXPECT_EQ(request.OnResult(512, context), Step::kDone);
}

TEST(BlockRequestTest, WhatTheKernelReportsOnlyOnceIsNeverHeldBack) {
  BlockContext context = Context();
  context.hold_errors = true;
  TestRequest flush({kBlockFlushCommand, 0, 0}, {}, 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(flush.Chain(), context), Step::kOperate);
  EXPECT_EQ(request.OnResult(-EIO, context), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusIoError);
  context.write_through = true;
  TestRequest durable({kBlockOut, 0, 0}, std::vector<uint8_t>(512), 0);
  ASSERT_EQ(request.Begin(durable.Chain(), context), Step::kOperate);
  EXPECT_EQ(request.OnResult(-ENOSPC, context), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusIoError);
  // Past the page cache the error is this write's own.
  context.is_direct = true;
  TestRequest direct({kBlockOut, 0, 0}, std::vector<uint8_t>(512), 0);
  ASSERT_EQ(request.Begin(direct.Chain(), context), Step::kOperate);
  EXPECT_EQ(request.OnResult(-ENOSPC, context), Step::kHold);
}

// --- Discard and write-zeroes --------------------------------------------------------------------

TEST(BlockRequestTest, EachRangeBecomesAnAllocateOperation) {
  struct Case {
    uint32_t type, flags;
    int mode;
  };
  const Case kCases[] = {
      {kBlockDiscardCommand, 0, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE},
      {kBlockWriteZeroesCommand, 0, FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE},
      {kBlockWriteZeroesCommand, 1, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE},
  };
  for (const Case& c : kCases) {
    TestRequest t({c.type, 0, 0}, RangeBytes({{5, 2, c.flags}, {9, 0, c.flags}, {98, 2, c.flags}}),
                  0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(7), Context()), Step::kOperate);
    EXPECT_EQ(request.operation().kind, Kind::kAllocate);
    EXPECT_EQ(request.operation().mode, c.mode);
    EXPECT_EQ(request.operation().offset, 5 * kSectorSize);
    EXPECT_EQ(request.operation().length, 2 * kSectorSize);
    ASSERT_EQ(request.OnResult(0, Context()), Step::kOperate) << "the empty range is skipped";
    EXPECT_EQ(request.operation().offset, 98 * kSectorSize);
    ASSERT_EQ(request.OnResult(0, Context()), Step::kDone);
    request.Finish();
    EXPECT_EQ(t.status(), kBlockStatusOk);
  }
}

TEST(BlockRequestTest, InWriteThroughModeRangesEndWithASync) {
  BlockContext context = Context();
  context.write_through = true;
  TestRequest t({kBlockWriteZeroesCommand, 0, 0}, RangeBytes({{5, 2, 0}}), 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), context), Step::kOperate);
  ASSERT_EQ(request.OnResult(0, context), Step::kOperate);
  EXPECT_EQ(request.operation().kind, Kind::kSync);
  EXPECT_EQ(request.OnResult(0, context), Step::kDone);
}

TEST(BlockRequestTest, AFileSystemThatCannotAllocateIsWrittenZeros) {
  for (const int error : {EOPNOTSUPP, EINVAL}) {
    TestRequest t({kBlockWriteZeroesCommand, 0, 0}, RangeBytes({{4, 2, 0}, {8, 1, 1}}), 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
    ASSERT_EQ(request.OnResult(-error, Context()), Step::kOperate);
    EXPECT_EQ(request.operation().kind, Kind::kWrite);
    EXPECT_EQ(request.operation().offset, 4 * kSectorSize);
    ASSERT_EQ(request.operation().buffers.size(), 1u);
    ASSERT_EQ(request.operation().buffers[0].iov_len, 1024u);
    const uint8_t* zeros = static_cast<const uint8_t*>(request.operation().buffers[0].iov_base);
    EXPECT_EQ(std::vector<uint8_t>(zeros, zeros + 1024), std::vector<uint8_t>(1024, 0));
    ASSERT_EQ(request.OnResult(1000, Context()), Step::kOperate) << "24 bytes are left";
    EXPECT_EQ(request.operation().offset, 4 * kSectorSize + 1000);
    EXPECT_EQ(request.operation().buffers[0].iov_len, 24u);
    ASSERT_EQ(request.OnResult(24, Context()), Step::kOperate);
    EXPECT_EQ(request.operation().kind, Kind::kAllocate) << "the second range";
    EXPECT_EQ(request.operation().offset, 8 * kSectorSize);
    EXPECT_EQ(request.OnResult(0, Context()), Step::kDone);
    EXPECT_EQ(request.status(), kBlockStatusOk);
  }
}

TEST(BlockRequestTest, ADiscardThatCannotBeDoneIsAHintNotTaken) {
  TestRequest t({kBlockDiscardCommand, 0, 0}, RangeBytes({{4, 2, 0}}), 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  ASSERT_EQ(request.OnResult(-EOPNOTSUPP, Context()), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusOk);
}

TEST(BlockRequestTest, ARangeChangedAfterTheCheckIsCheckedAgain) {
  TestRequest t({kBlockDiscardCommand, 0, 0}, RangeBytes({{1, 1, 0}, {2, 1, 0}}), 0);
  BlockRequest request;
  ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kOperate);
  const BlockRange evil{99, 20, 0};
  memcpy(&t.readable[sizeof(BlockHeader) + sizeof(BlockRange)], &evil, sizeof(evil));
  ASSERT_EQ(request.OnResult(0, Context()), Step::kDone);
  EXPECT_EQ(request.status(), kBlockStatusIoError);
}

// --- What is refused at once
// ----------------------------------------------------------------------

struct RefusedCase {
  const char* name;
  BlockHeader header;
  std::vector<uint8_t> data_out;
  size_t data_in_bytes;
  void (*change)(BlockContext& context);
  uint8_t status;
};

void AsTheyAre(BlockContext&) {}

TEST(BlockRequestTest, ImpossibleRequestsAreRefusedWithoutAnOperation) {
  constexpr uint64_t kMax = ~uint64_t{0};
  const auto bytes = [](size_t n) { return std::vector<uint8_t>(n); };
  const auto ranges = RangeBytes;
  const uint32_t kDiscard = kBlockDiscardCommand, kZeroes = kBlockWriteZeroesCommand;
  const uint8_t kError = kBlockStatusIoError, kUnsupported = kBlockStatusUnsupported;
  const RefusedCase kCases[] = {
      {"read behind the end", {kBlockIn, 0, 100}, {}, 512, AsTheyAre, kError},
      {"read across the end", {kBlockIn, 0, 99}, {}, 1024, AsTheyAre, kError},
      {"read where the offset wraps", {kBlockIn, 0, kMax}, {}, 512, AsTheyAre, kError},
      {"read at 2^55", {kBlockIn, 0, uint64_t{1} << 55}, {}, 512, AsTheyAre, kError},
      {"read of half a sector", {kBlockIn, 0, 0}, {}, 256, AsTheyAre, kError},
      {"read of too much", {kBlockIn, 0, 0}, {}, 33 * 512, AsTheyAre, kError},
      {"write across the end", {kBlockOut, 0, 99}, bytes(1024), 0, AsTheyAre, kError},
      {"write of 513 bytes", {kBlockOut, 0, 0}, bytes(513), 0, AsTheyAre, kError},
      {"write to a read-only disk",
       {kBlockOut, 0, 0},
       bytes(512),
       0,
       [](BlockContext& context) { context.read_only = true; },
       kError},
      {"unknown type", {99, 0, 0}, {}, 512, AsTheyAre, kUnsupported},
      {"secure erase", {14, 0, 0}, ranges({{0, 1, 0}}), 0, AsTheyAre, kUnsupported},
      {"legacy SCSI command", {2, 0, 0}, bytes(512), 0, AsTheyAre, kUnsupported},
      {"discard not negotiated",
       {kDiscard, 0, 0},
       ranges({{0, 1, 0}}),
       0,
       [](BlockContext& context) { context.discard = false; },
       kUnsupported},
      {"write-zeroes not negotiated",
       {kZeroes, 0, 0},
       ranges({{0, 1, 0}}),
       0,
       [](BlockContext& context) { context.write_zeroes = false; },
       kUnsupported},
      {"discard with the unmap flag",
       {kDiscard, 0, 0},
       ranges({{0, 1, 1}}),
       0,
       AsTheyAre,
       kUnsupported},
      {"write-zeroes with an unknown flag",
       {kZeroes, 0, 0},
       ranges({{0, 1, 2}}),
       0,
       AsTheyAre,
       kUnsupported},
      {"discard of no range", {kDiscard, 0, 0}, {}, 0, AsTheyAre, kError},
      {"discard of half a range", {kDiscard, 0, 0}, bytes(24), 0, AsTheyAre, kError},
      {"discard of too many ranges", {kDiscard, 0, 0}, bytes(64), 0, AsTheyAre, kError},
      {"discard of too many sectors", {kDiscard, 0, 0}, ranges({{0, 21, 0}}), 0, AsTheyAre, kError},
      {"write-zeroes of too many", {kZeroes, 0, 0}, ranges({{0, 11, 0}}), 0, AsTheyAre, kError},
      {"discard across the end", {kDiscard, 0, 0}, ranges({{99, 2, 0}}), 0, AsTheyAre, kError},
      {"second range wraps",
       {kDiscard, 0, 0},
       ranges({{0, 1, 0}, {kMax, 2, 0}}),
       0,
       AsTheyAre,
       kError},
  };
  for (const RefusedCase& c : kCases) {
    BlockContext context = Context();
    c.change(context);
    TestRequest t(c.header, c.data_out, c.data_in_bytes);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), context), Step::kDone) << c.name;
    EXPECT_EQ(request.error_number(), 0) << c.name << ": the guest's error, not the disk's";
    EXPECT_EQ(request.Finish(), c.data_in_bytes == 0 ? 1u : 0u) << c.name;
    EXPECT_EQ(t.status(), c.status) << c.name;
  }
}

TEST(BlockRequestTest, TransfersOfNothingAreDoneAtOnce) {
  for (const uint32_t type : {kBlockIn, kBlockOut}) {
    TestRequest t({type, 0, 100}, {}, 0);
    BlockRequest request;
    ASSERT_EQ(request.Begin(t.Chain(), Context()), Step::kDone);
    EXPECT_EQ(request.status(), kBlockStatusOk);
  }
}

TEST(BlockRequestTest, AChainWithoutRoomForHeaderOrStatusIsMalformed) {
  TestRequest t({kBlockIn, 0, 0}, {}, 512);
  BlockRequest request;
  DescriptorChain chain = t.Chain();
  chain.readable[0].iov_len = 15;
  EXPECT_EQ(request.Begin(chain, Context()), Step::kMalformed);
  TestRequest u({kBlockOut, 0, 0}, std::vector<uint8_t>(512), 0);
  chain = u.Chain();
  chain.writable = {};
  EXPECT_EQ(request.Begin(chain, Context()), Step::kMalformed);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
