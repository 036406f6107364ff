#include "vmm/control/event_feed.h"

#include <optional>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "vmm/control/testing/fake_vm.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kKept = EventLog::kKeptEvents;

TEST(EventFeedTest, ASnapshotComesFirstAndContainsEarlierEvents) {
  FakeVm vm;
  vm.AppendEvent();
  vm.SetState(v1::VmStatus::PAUSED);
  EventFeed feed(vm, /*only_past=*/false);
  const std::optional<v1::Event> first = feed.Next();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->sequence(), 2u);
  EXPECT_GT(first->time().seconds(), 0);
  EXPECT_EQ(first->snapshot().status().state(), v1::VmStatus::PAUSED);
  ASSERT_EQ(first->snapshot().devices_size(), 2);
  EXPECT_EQ(first->snapshot().devices(1).name(), "disk0");
  EXPECT_FALSE(feed.Next().has_value());
  EXPECT_FALSE(feed.complete());
}

TEST(EventFeedTest, LaterEventsFollowOnceAndInOrder) {
  FakeVm vm;
  EventFeed feed(vm, /*only_past=*/false);
  EXPECT_EQ(feed.Next()->sequence(), 0u);
  vm.AppendEvent();
  vm.SetState(v1::VmStatus::ENDING, "over");
  EXPECT_EQ(feed.Next()->policy().device(), "disk0");
  const std::optional<v1::Event> second = feed.Next();
  EXPECT_EQ(second->sequence(), 2u);
  EXPECT_EQ(second->vm_state().reason(), "over");
  EXPECT_FALSE(feed.Next().has_value());
}

TEST(EventFeedTest, ASubscriberThatIsAsLateAsTheLogKeepsMissesNothing) {
  FakeVm vm;
  EventFeed feed(vm, /*only_past=*/false);
  ASSERT_TRUE(feed.Next().has_value());
  for (uint64_t i = 0; i < kKept; ++i) vm.AppendEvent();
  for (uint64_t i = 1; i <= kKept; ++i) {
    const std::optional<v1::Event> event = feed.Next();
    ASSERT_EQ(event->sequence(), i);
    ASSERT_TRUE(event->has_policy());
  }
}

TEST(EventFeedTest, ASubscriberThatIsTooLateGetsTheNumberOfMissedEventsAndANewSnapshot) {
  FakeVm vm;
  EventFeed feed(vm, /*only_past=*/false);
  vm.AppendEvent();
  EXPECT_EQ(feed.Next()->sequence(), 1u);
  vm.AppendEvent();
  EXPECT_EQ(feed.Next()->sequence(), 2u);
  for (uint64_t i = 0; i < kKept + 1; ++i) vm.AppendEvent();
  const std::optional<v1::Event> missed = feed.Next();
  ASSERT_TRUE(missed->has_missed());
  EXPECT_EQ(missed->missed().count(), kKept + 1);
  EXPECT_EQ(missed->sequence(), kKept + 3);
  // An event before the snapshot is requested follows it as an event.
  vm.AppendEvent();
  const std::optional<v1::Event> snapshot = feed.Next();
  ASSERT_TRUE(snapshot->has_snapshot());
  EXPECT_EQ(snapshot->sequence(), kKept + 3);
  EXPECT_EQ(snapshot->snapshot().status().devices_running(), kKept + 3);
  const std::optional<v1::Event> next = feed.Next();
  EXPECT_TRUE(next->has_policy());
  EXPECT_EQ(next->sequence(), kKept + 4);
  EXPECT_FALSE(feed.Next().has_value());
}

// A VM in which each read of its state causes an event.
class RestlessVm : public FakeVm {
 public:
  v1::VmStatus Status() const override {
    v1::VmStatus status = FakeVm::Status();
    const_cast<RestlessVm*>(this)->AppendEvent();
    return status;
  }
};

TEST(EventFeedTest, AnEventDuringASnapshotFollowsIt) {
  RestlessVm vm;
  EventFeed feed(vm, /*only_past=*/false);
  const v1::Event snapshot = *feed.Next();
  EXPECT_GE(snapshot.snapshot().status().devices_running(), snapshot.sequence());
  const uint64_t last = vm.events().last_sequence();
  ASSERT_GT(last, snapshot.sequence());
  for (uint64_t sequence = snapshot.sequence() + 1; sequence <= last; ++sequence) {
    EXPECT_EQ(feed.Next()->sequence(), sequence);
  }
  EXPECT_FALSE(feed.Next().has_value());
}

// The guarantees of a feed, also during concurrent appends: sequences without gaps, and snapshots
// that contain at least the events up to their sequence.
TEST(EventFeedTest, NothingIsLostDuringConcurrentAppends) {
  constexpr int kWriters = 2;
  constexpr uint64_t kEach = 20'000;
  FakeVm vm;
  std::vector<std::thread> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.emplace_back([&vm] {
      for (uint64_t j = 0; j < kEach; ++j) vm.AppendEvent();
    });
  }
  EventFeed feed(vm, /*only_past=*/false);
  const v1::Event first = *feed.Next();
  uint64_t known = first.sequence();
  EXPECT_GE(first.snapshot().status().devices_running(), known);
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (known < kWriters * kEach && absl::Now() < deadline) {
    const std::optional<v1::Event> event = feed.Next();
    if (!event.has_value()) {
      std::this_thread::yield();
    } else if (event->has_snapshot()) {
      ASSERT_EQ(event->sequence(), known);
      ASSERT_GE(event->snapshot().status().devices_running(), known);
    } else {
      known += event->has_missed() ? event->missed().count() : 1;
      ASSERT_EQ(event->sequence(), known);
    }
  }
  EXPECT_EQ(known, kWriters * kEach);
  for (std::thread& writer : writers) writer.join();
}

TEST(EventFeedTest, ThePastHasTheKeptEventsAndThenEnds) {
  FakeVm vm;
  vm.AppendEvent();
  vm.AppendEvent();
  EventFeed feed(vm, /*only_past=*/true);
  EXPECT_TRUE(feed.Next()->has_snapshot());
  vm.AppendEvent();  // not the past
  EXPECT_EQ(feed.Next()->sequence(), 1u);
  EXPECT_EQ(feed.Next()->sequence(), 2u);
  EXPECT_FALSE(feed.complete());
  EXPECT_FALSE(feed.Next().has_value());
  EXPECT_TRUE(feed.complete());
  EXPECT_FALSE(feed.Next().has_value());
}

TEST(EventFeedTest, APastThatIsOlderThanTheLogBeginsWithItsOldestEvent) {
  FakeVm vm;
  for (uint64_t i = 0; i < kKept + 10; ++i) vm.AppendEvent();
  EventFeed feed(vm, /*only_past=*/true);
  EXPECT_EQ(feed.Next()->sequence(), kKept + 10);
  EXPECT_EQ(feed.Next()->sequence(), 11u);
}

}  // namespace
}  // namespace bulkhead::vmm
