#include "proto/channel/trace_ring.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

namespace bulkhead::channel {
namespace {

class TraceRingTest : public testing::Test {
 protected:
  std::vector<TraceRecord> Read(size_t limit = SIZE_MAX) {
    std::vector<TraceRecord> records;
    lost_ += reader_.Read(limit, records);
    return records;
  }
  void Write(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      recorder_.Write({.time_ns = written_, .a = ~written_, .kind = TraceRecord::kTaken});
      ++written_;
    }
  }

  const std::unique_ptr<TraceRing> ring_ = std::make_unique<TraceRing>();
  std::atomic<uint32_t> on_{1};
  const TraceRecorder recorder_{on_, *ring_};
  TraceReader reader_{*ring_};
  uint64_t written_ = 0;
  uint64_t lost_ = 0;
};

TEST_F(TraceRingTest, RecordsComeOutWholeAndInOrder) {
  recorder_.Write({.time_ns = 1,
                   .a = 2,
                   .b = 3,
                   .kind = TraceRecord::kAccess,
                   .operation = 4,
                   .size_bytes = 8,
                   .region = 5,
                   .index = 0xfedcba98});
  recorder_.Write(TraceRecord::kDoorbell, 7);
  const std::vector<TraceRecord> records = Read();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].time_ns, 1u);
  EXPECT_EQ(records[0].a, 2u);
  EXPECT_EQ(records[0].b, 3u);
  EXPECT_EQ(records[0].kind, TraceRecord::kAccess);
  EXPECT_EQ(records[0].operation, 4);
  EXPECT_EQ(records[0].size_bytes, 8);
  EXPECT_EQ(records[0].region, 5);
  EXPECT_EQ(records[0].index, 0xfedcba98u);
  EXPECT_EQ(records[1].index, 7u);
  EXPECT_TRUE(Read().empty());
  EXPECT_EQ(lost_, 0u);
}

TEST_F(TraceRingTest, ALimitLeavesTheRest) {
  Write(10);
  EXPECT_EQ(Read(4).size(), 4u);
  const std::vector<TraceRecord> rest = Read();
  ASSERT_EQ(rest.size(), 6u);
  EXPECT_EQ(rest[0].time_ns, 4u);
}

TEST_F(TraceRingTest, TheOldestRecordsAreLostAndCounted) {
  Write(TraceRing::kSlots + 1000);
  const std::vector<TraceRecord> records = Read();
  // The slot that the writer writes next may be half written at any time.
  ASSERT_EQ(records.size(), TraceRing::kSlots - 1);
  EXPECT_EQ(records.front().time_ns, 1001u);
  EXPECT_EQ(records.back().time_ns, written_ - 1);
  EXPECT_EQ(lost_, 1001u);
}

TEST_F(TraceRingTest, ASecondReaderBeginsAtTheEnd) {
  Write(5);
  TraceReader second(*ring_);
  Write(1);
  std::vector<TraceRecord> records;
  EXPECT_EQ(second.Read(SIZE_MAX, records), 0u);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].time_ns, 5u);
}

TEST_F(TraceRingTest, AHostileHeadGivesABoundedNumberAndTheNextRecordsAreRead) {
  Write(5);
  for (const uint64_t head : {UINT64_MAX, uint64_t{3}, UINT64_MAX - 1, uint64_t{0}}) {
    ring_->head.store(head);
    EXPECT_LE(Read().size(), TraceRing::kSlots) << head;
    EXPECT_LE(Read().size(), TraceRing::kSlots) << head;
  }
  Write(2);
  EXPECT_EQ(Read().size(), 2u);
}

TEST_F(TraceRingTest, ARecordThatIsBeingOverwrittenIsNeverTakenForWhole) {
  constexpr uint64_t kCount = 8 * TraceRing::kSlots;
  std::thread writer([this] { Write(kCount); });
  uint64_t read = 0;
  uint64_t next = 0;
  while (read + lost_ < kCount) {
    for (const TraceRecord& record : Read(100)) {
      ++read;
      ASSERT_EQ(record.a, ~record.time_ns);
      ASSERT_GE(record.time_ns, next);
      next = record.time_ns + 1;
    }
    std::this_thread::yield();
  }
  writer.join();
  EXPECT_EQ(read + lost_, kCount);
}

TEST(TraceRecorderTest, WithoutARingItIsNeverOn) { EXPECT_FALSE(TraceRecorder().on()); }

TEST(ChannelTraceTest, TheDeviceWritesWhileTheVmmWantsItAndASuccessorGoesOn) {
  const absl::StatusOr<std::unique_ptr<ChannelClient>> client =
      ChannelClient::Create({.waiters = 2});
  ASSERT_TRUE(client.ok()) << client.status();
  TraceReader reader((*client)->trace());
  std::vector<TraceRecord> records;
  for (uint64_t generation = 1; generation <= 2; ++generation) {
    const absl::StatusOr<std::unique_ptr<ChannelServer>> server =
        ConnectServer(**client, generation, absl::ZeroDuration());
    ASSERT_TRUE(server.ok()) << server.status();
    const TraceRecorder recorder = (*server)->trace();
    EXPECT_EQ(recorder.on(), generation == 2);  // ordered while the first one served
    (*client)->SetTracing(true);
    ASSERT_TRUE(recorder.on());
    recorder.Write(TraceRecord::kDoorbell, static_cast<uint32_t>(generation));
    EXPECT_TRUE((*client)->PrepareSuccessor(/*discard_requests=*/false).ok());
  }
  EXPECT_EQ(reader.Read(SIZE_MAX, records), 0u);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].index, 1u);
  EXPECT_EQ(records[1].index, 2u);

  (*client)->SetTracing(false);
  (*client)->DropTrace();
  EXPECT_EQ((*client)->trace().head.load(), 0u);
  EXPECT_EQ((*client)->trace().slots[0].words[0].load(), 0u);
}

}  // namespace
}  // namespace bulkhead::channel
