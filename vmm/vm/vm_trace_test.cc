#include "vmm/vm/vm_trace.h"

#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/trace_ring.h"
#include "proto/vm_control.pb.h"
#include "vmm/vm/access_trace.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {
namespace {

using channel::TraceRecord;

constexpr uint32_t kDevice = 1;  // its number

uint64_t Nanoseconds(absl::Duration time) {
  return static_cast<uint64_t>(absl::ToInt64Nanoseconds(time));
}

// Two vCPUs, and a device of two doorbells and three vectors.
class VmTraceTest : public testing::Test {
 protected:
  void Start(absl::Duration duration = absl::Seconds(1)) {
    v1::TraceStart start;
    start.set_name("web");
    std::vector<TraceSource> sources = {
        {.ring = &accesses_->ring(0), .index = 0},
        {.ring = &accesses_->ring(1), .index = 1},
        {.ring = ring_.get(), .is_device = true, .index = kDevice, .doorbells = 2, .vectors = 3}};
    accesses_->SetOn(true);
    trace_.emplace(std::move(start), std::move(sources), events_, events_.last_sequence(), duration,
                   [this] { ++ends_; });
    const std::optional<v1::TraceChunk> first = trace_->Next(channel::TraceNow());
    ASSERT_TRUE(first.has_value());
    EXPECT_EQ(first->start().name(), "web");
    begin_ns_ = first->start().time_ns();
    EXPECT_EQ(first->records_size(), 0);
  }

  // All chunks of the round after so many intervals.
  std::vector<v1::TraceChunk> Round(uint64_t intervals) {
    const uint64_t now = begin_ns_ + intervals * Nanoseconds(VmTrace::kInterval);
    std::vector<v1::TraceChunk> chunks;
    while (std::optional<v1::TraceChunk> chunk = trace_->Next(now)) {
      chunks.push_back(*std::move(chunk));
    }
    for (size_t i = 0; i < chunks.size(); ++i) {
      EXPECT_EQ(chunks[i].complete_until_ns(), i + 1 == chunks.size() ? now : 0);
    }
    return chunks;
  }
  v1::TraceChunk OnlyChunk(uint64_t intervals) {
    std::vector<v1::TraceChunk> chunks = Round(intervals);
    EXPECT_EQ(chunks.size(), 1u);
    return chunks.empty() ? v1::TraceChunk() : std::move(chunks[0]);
  }

  const std::unique_ptr<AccessTrace> accesses_ = AccessTrace::Create(2).value();
  const std::unique_ptr<channel::TraceRing> ring_ = std::make_unique<channel::TraceRing>();
  const std::atomic<uint32_t> on_{1};
  const channel::TraceRecorder device_{on_, *ring_};
  EventLog events_;
  std::optional<VmTrace> trace_;
  uint64_t begin_ns_ = 0;
  int ends_ = 0;
};

TEST_F(VmTraceTest, AnAccessHasItsBeginAndItsDuration) {
  Start();
  accesses_->Write(1, {.time_ns = begin_ns_ + 30,
                       .a = begin_ns_ + 10,
                       .b = 0x14,
                       .kind = TraceRecord::kAccess,
                       .operation = static_cast<uint8_t>(channel::Operation::kRead),
                       .size_bytes = 4,
                       .region = 2,
                       .index = kDevice});
  accesses_->Write(2, {});  // the vmm itself: no vCPU
  const v1::TraceChunk chunk = OnlyChunk(1);
  ASSERT_EQ(chunk.records_size(), 1);
  const v1::TraceRecord& record = chunk.records(0);
  EXPECT_EQ(record.kind(), v1::TraceRecord::READ);
  EXPECT_EQ(record.time_ns(), begin_ns_ + 10);
  EXPECT_EQ(record.duration_ns(), 20u);
  EXPECT_EQ(record.device(), kDevice);
  EXPECT_EQ(record.vcpu(), 1u);
  EXPECT_EQ(record.region(), 2u);
  EXPECT_EQ(record.offset(), 0x14u);
  EXPECT_EQ(record.size_bytes(), 4u);
}

TEST_F(VmTraceTest, ADevicesRecordsAreItsOwn) {
  Start();
  device_.Write(TraceRecord::kDoorbell, 1);
  device_.Write(TraceRecord::kMsix, 2);
  device_.Write(TraceRecord::kTaken, 1, /*head=*/7, channel::BytesOfBuffers(16, 512));
  device_.Write(TraceRecord::kCompleted, 1, /*head=*/7, /*bytes=*/1);
  const v1::TraceChunk chunk = OnlyChunk(1);
  ASSERT_EQ(chunk.records_size(), 4);
  uint64_t last = begin_ns_;
  for (const v1::TraceRecord& record : chunk.records()) {
    EXPECT_EQ(record.device(), kDevice);
    EXPECT_GE(record.time_ns(), last);
    last = record.time_ns();
  }
  EXPECT_EQ(chunk.records(0).kind(), v1::TraceRecord::DOORBELL);
  EXPECT_EQ(chunk.records(1).kind(), v1::TraceRecord::MSIX);
  EXPECT_EQ(chunk.records(2).kind(), v1::TraceRecord::REQUEST_TAKEN);
  EXPECT_EQ(chunk.records(2).head(), 7u);
  EXPECT_EQ(chunk.records(2).readable_bytes(), 16u);
  EXPECT_EQ(chunk.records(2).writable_bytes(), 512u);
  EXPECT_EQ(chunk.records(3).kind(), v1::TraceRecord::REQUEST_COMPLETED);
  EXPECT_EQ(chunk.records(3).written_bytes(), 1u);
}

TEST_F(VmTraceTest, WhatADeviceCannotHaveRecordedIsDropped) {
  Start();
  device_.Write(TraceRecord::kDoorbell, 2);
  device_.Write(TraceRecord::kMsix, 3);
  device_.Write(TraceRecord::kTaken, 0, /*head=*/0x10000);
  device_.Write(TraceRecord::kTaken, 5000, /*head=*/0);
  device_.Write(TraceRecord::kAccess, 0);
  device_.Write(static_cast<TraceRecord::Kind>(0), 0);
  device_.Write(static_cast<TraceRecord::Kind>(255), 0);
  device_.Write(TraceRecord::kLine, 12345);
  const v1::TraceChunk chunk = OnlyChunk(1);
  ASSERT_EQ(chunk.records_size(), 1);
  EXPECT_EQ(chunk.records(0).kind(), v1::TraceRecord::LINE);
}

TEST_F(VmTraceTest, ADevicesTimesAreMadeToBePossible) {
  Start();
  for (const uint64_t time : {uint64_t{0}, UINT64_MAX, begin_ns_, uint64_t{5}}) {
    device_.Write({.time_ns = time, .kind = TraceRecord::kLine});
  }
  const v1::TraceChunk chunk = OnlyChunk(1);
  ASSERT_EQ(chunk.records_size(), 4);
  uint64_t last = begin_ns_;
  for (const v1::TraceRecord& record : chunk.records()) {
    EXPECT_GE(record.time_ns(), last);
    EXPECT_LE(record.time_ns(), channel::TraceNow());
    last = record.time_ns();
  }
}

TEST_F(VmTraceTest, WhateverADeviceWritesMakesPossibleRecords) {
  Start();
  std::minstd_rand random(1);
  const auto word = [&random]() -> uint64_t {
    const uint64_t any = uint64_t{random()} << 33 ^ uint64_t { random() } << 11 ^ random();
    return random() % 2 == 0 ? any : any % 8;
  };
  uint64_t last = begin_ns_;
  for (uint64_t round = 1; round <= 20; ++round) {
    for (channel::TraceRing::Slot& slot : ring_->slots) {
      for (std::atomic<uint64_t>& shared : slot.words) shared.store(word());
    }
    ring_->head.store(word());
    size_t records = 0;
    for (const v1::TraceChunk& chunk : Round(round)) {
      records += static_cast<size_t>(chunk.records_size());
      for (const v1::TraceRecord& record : chunk.records()) {
        ASSERT_EQ(record.device(), kDevice);
        ASSERT_GE(record.kind(), v1::TraceRecord::DOORBELL);
        ASSERT_GE(record.time_ns(), last);
        last = record.time_ns();
        ASSERT_LE(record.head(), 0xffffu);
        if (record.kind() == v1::TraceRecord::DOORBELL) {
          ASSERT_LT(record.index(), 2u);
        }
        if (record.kind() == v1::TraceRecord::MSIX) {
          ASSERT_LT(record.index(), 3u);
        }
      }
    }
    ASSERT_LE(records, channel::TraceRing::kSlots);
    ASSERT_LE(last, channel::TraceNow());
  }
}

TEST_F(VmTraceTest, ARoundIsSentInPiecesAndEndsThoughTheDeviceGoesOn) {
  Start();
  for (size_t i = 0; i < 2 * VmTrace::kRecordsOfChunk + 5; ++i)
    device_.Write(TraceRecord::kLine, 0);
  const std::vector<v1::TraceChunk> chunks = Round(1);
  ASSERT_EQ(chunks.size(), 3u);
  EXPECT_EQ(static_cast<size_t>(chunks[0].records_size()), VmTrace::kRecordsOfChunk);
  EXPECT_EQ(chunks[2].records_size(), 5);

  size_t pieces = 0;
  const uint64_t now = begin_ns_ + 2 * Nanoseconds(VmTrace::kInterval);
  while (trace_->Next(now).has_value()) {
    // It writes as fast as it is read.
    for (size_t i = 0; i < VmTrace::kRecordsOfChunk; ++i) device_.Write(TraceRecord::kLine, 0);
    ring_->head.fetch_add(1000);  // and more than it writes
    ASSERT_LE(++pieces, 20u);
  }
}

TEST_F(VmTraceTest, OverwrittenRecordsAreCounted) {
  Start();
  for (size_t i = 0; i < channel::TraceRing::kSlots + 99; ++i) device_.Write(TraceRecord::kLine, 0);
  uint64_t lost = 0;
  for (const v1::TraceChunk& chunk : Round(1)) lost += chunk.lost();
  EXPECT_EQ(lost, 100u);
}

TEST_F(VmTraceTest, EventsOfTheTraceAreInItAtTheirTime) {
  events_.Append({});  // before
  Start();
  v1::Event event;
  event.mutable_guest_reset()->set_reason("why");
  events_.Append(event);
  const v1::TraceChunk chunk = OnlyChunk(1);
  ASSERT_EQ(chunk.events_size(), 1);
  EXPECT_EQ(chunk.events(0).event().guest_reset().reason(), "why");
  EXPECT_GE(chunk.events(0).time_ns(), begin_ns_);
  EXPECT_LE(chunk.events(0).time_ns(), channel::TraceNow());
  EXPECT_EQ(OnlyChunk(2).events_size(), 0);
}

TEST_F(VmTraceTest, ItEndsByItselfAndOnce) {
  Start(2 * VmTrace::kInterval);
  EXPECT_FALSE(trace_->Next(begin_ns_ + 1).has_value());  // too early
  OnlyChunk(1);
  EXPECT_FALSE(trace_->complete());
  EXPECT_EQ(ends_, 0);
  OnlyChunk(2);
  EXPECT_TRUE(trace_->complete());
  EXPECT_EQ(ends_, 1);
  EXPECT_FALSE(trace_->Next(begin_ns_ + Nanoseconds(absl::Hours(1))).has_value());
  trace_.reset();
  EXPECT_EQ(ends_, 1);
}

TEST_F(VmTraceTest, WithoutAClientItEnds) {
  Start();
  trace_.reset();
  EXPECT_EQ(ends_, 1);
}

TEST(AccessTraceTest, ItsMemoryIsGivenBack) {
  const std::unique_ptr<AccessTrace> trace = AccessTrace::Create(1).value();
  EXPECT_FALSE(trace->on());
  trace->SetOn(true);
  EXPECT_TRUE(trace->on());
  trace->Write(0, {.time_ns = 1, .kind = TraceRecord::kAccess});
  EXPECT_EQ(trace->ring(0).head.load(), 1u);
  trace->SetOn(false);
  trace->Drop();
  EXPECT_EQ(trace->ring(0).head.load(), 0u);
  EXPECT_FALSE(AccessTrace::Never().on());
  AccessTrace::Never().Write(0, {});
}

}  // namespace
}  // namespace bulkhead::vmm
