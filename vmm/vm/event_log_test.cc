#include "vmm/vm/event_log.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

v1::Event MakeEvent(const std::string& reason = "") {
  v1::Event event;
  event.mutable_guest_reset()->set_reason(reason);
  return event;
}

std::vector<uint64_t> Sequences(const std::vector<v1::Event>& events) {
  std::vector<uint64_t> sequences;
  for (const v1::Event& event : events) sequences.push_back(event.sequence());
  return sequences;
}

TEST(EventLogTest, EventsAreNumberedFromOneAndDated) {
  EventLog log;
  EXPECT_EQ(log.last_sequence(), 0u);
  const int64_t before = absl::ToUnixSeconds(absl::Now());
  EXPECT_EQ(log.Append(MakeEvent("first")), 1u);
  EXPECT_EQ(log.Append(MakeEvent("second")), 2u);
  EXPECT_EQ(log.last_sequence(), 2u);
  const std::vector<v1::Event> events = log.EventsAfter(0, 10);
  ASSERT_THAT(Sequences(events), ElementsAre(1, 2));
  EXPECT_EQ(events[0].guest_reset().reason(), "first");
  EXPECT_EQ(events[1].guest_reset().reason(), "second");
  EXPECT_GE(events[0].time().seconds(), before);
}

TEST(EventLogTest, ReadersTakeTheOldestFirstAndNoMoreThanTheyAskFor) {
  EventLog log;
  for (int i = 0; i < 5; ++i) log.Append(MakeEvent());
  EXPECT_THAT(Sequences(log.EventsAfter(0, 2)), ElementsAre(1, 2));
  EXPECT_THAT(Sequences(log.EventsAfter(2, 2)), ElementsAre(3, 4));
  EXPECT_THAT(Sequences(log.EventsAfter(4, 2)), ElementsAre(5));
  EXPECT_THAT(log.EventsAfter(5, 2), IsEmpty());
  EXPECT_THAT(log.EventsAfter(9, 2), IsEmpty());
  EXPECT_THAT(log.EventsAfter(0, 0), IsEmpty());
}

TEST(EventLogTest, OnlyTheNewestAreKeptAndTheirNumbersShowTheGap) {
  EventLog log;
  for (size_t i = 0; i < EventLog::kKeptEvents + 3; ++i) log.Append(MakeEvent());
  EXPECT_THAT(Sequences(log.EventsAfter(0, 1)), ElementsAre(4));
  EXPECT_THAT(Sequences(log.EventsAfter(1, 1)), ElementsAre(4));
  EXPECT_THAT(log.EventsAfter(0, SIZE_MAX), SizeIs(EventLog::kKeptEvents));
}

TEST(EventLogTest, AListenerMayReadTheNewEvent) {
  EventLog log;
  std::vector<uint64_t> seen;
  const uint64_t listener = log.Listen([&] {
    for (const v1::Event& event : log.EventsAfter(seen.size(), 10)) {
      seen.push_back(event.sequence());
    }
  });
  log.Append(MakeEvent());
  log.Append(MakeEvent());
  EXPECT_THAT(seen, ElementsAre(1, 2));
  log.Unlisten(listener);
  log.Append(MakeEvent());
  EXPECT_THAT(seen, ElementsAre(1, 2));
}

TEST(EventLogTest, UnlistenWaitsForARunningCall) {
  EventLog log;
  absl::Notification called, go_on;
  bool finished = false;
  const uint64_t listener = log.Listen([&] {
    called.Notify();
    go_on.WaitForNotification();
    finished = true;
  });
  std::thread writer([&] { log.Append(MakeEvent()); });
  called.WaitForNotification();
  std::thread releaser([&] { go_on.Notify(); });
  log.Unlisten(listener);
  EXPECT_TRUE(finished);
  writer.join();
  releaser.join();
}

TEST(EventLogTest, EventsOfManyThreadsAreNumberedWithoutGapsInOneOrder) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  EventLog log;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&log, t] {
      uint64_t last = 0;
      for (int i = 0; i < kEach; ++i) {
        const uint64_t sequence = log.Append(MakeEvent(absl::StrCat(t, " ", i)));
        EXPECT_GT(sequence, last);
        last = sequence;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<v1::Event> events = log.EventsAfter(0, SIZE_MAX);
  ASSERT_THAT(events, SizeIs(kThreads * kEach));
  std::vector<int> next(kThreads);
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].sequence(), i + 1);
    // Each thread's events are in its order.
    const std::string& reason = events[i].guest_reset().reason();
    const int thread = reason[0] - '0';
    EXPECT_EQ(reason, absl::StrCat(thread, " ", next[thread]++));
  }
}

}  // namespace
}  // namespace bulkhead::vmm
