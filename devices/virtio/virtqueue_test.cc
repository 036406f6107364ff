#include "devices/virtio/virtqueue.h"

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/in_flight_log.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr GuestAddress kRings = 0x10000;
constexpr GuestAddress kTable = 0x40000;
constexpr GuestAddress kData = 0x80000;
constexpr uint16_t kSize = 8;

struct Options {
  bool event_index = false;
  bool indirect = false;
};

// One queue with both of its sides, in a guest memory of [0, 1 MiB) and [2 MiB, 3 MiB).
class TestQueue {
 public:
  explicit TestQueue(Options options = {})
      : services({{0, kMiB}, {2 * kMiB, kMiB}}),
        driver(services.memory(), kRings, kSize, options.event_index),
        queue(kSize, [this](absl::string_view what) { violations.push_back(std::string(what)); }),
        storage(kSize) {
    EXPECT_TRUE(
        queue.Enable(services.memory(), driver.setup(), options.event_index, options.indirect)
            .ok());
    queue.SetServing(true);
  }

  bool Pop() { return queue.Pop(absl::MakeSpan(storage), chain); }
  uint8_t* Host(GuestAddress address) { return services.memory().HostPointer(address, 1); }

  FakeServices services;
  FakeQueue driver;
  std::vector<std::string> violations;
  Virtqueue queue;
  std::vector<iovec> storage;
  DescriptorChain chain;
};

TEST(VirtqueueTest, PopGivesTheBuffersOfAChainInOrder) {
  TestQueue t;
  const uint16_t head = *t.driver.Add({{kData, 16, false},
                                       {kData + 0x100, 512, false},
                                       {kData + 0x1000, 4096, true},
                                       {2 * kMiB, 1, true}});
  ASSERT_TRUE(t.Pop());
  EXPECT_EQ(t.chain.head, head);
  ASSERT_EQ(t.chain.readable.size(), 2u);
  ASSERT_EQ(t.chain.writable.size(), 2u);
  EXPECT_EQ(t.chain.readable[0].iov_base, t.Host(kData));
  EXPECT_EQ(t.chain.readable[1].iov_len, 512u);
  EXPECT_EQ(t.chain.writable[0].iov_base, t.Host(kData + 0x1000));
  EXPECT_EQ(t.chain.writable[1].iov_base, t.Host(2 * kMiB));
  EXPECT_EQ(t.queue.in_flight(), 1u);
  EXPECT_FALSE(t.Pop());
  EXPECT_TRUE(t.violations.empty());
}

TEST(VirtqueueTest, CompletedChainsAppearInOrderAtPublishOnly) {
  TestQueue t;
  const uint16_t a = *t.driver.Add({{kData, 1, true}});
  const uint16_t b = *t.driver.Add({{kData, 2, true}});
  ASSERT_TRUE(t.Pop());
  ASSERT_TRUE(t.Pop());
  t.queue.Complete(b, 2);
  t.queue.Complete(a, 1);
  EXPECT_EQ(t.driver.used_idx(), 0);
  EXPECT_TRUE(t.queue.Publish());
  EXPECT_EQ(t.driver.used_idx(), 2);
  const UsedElement first = *t.driver.PopUsed();
  const UsedElement second = *t.driver.PopUsed();
  EXPECT_EQ(first.id, b);
  EXPECT_EQ(first.length, 2u);
  EXPECT_EQ(second.id, a);
  EXPECT_EQ(t.queue.in_flight(), 0u);
  EXPECT_FALSE(t.queue.Publish()) << "nothing new: no interrupt";
}

TEST(VirtqueueTest, IndicesWrapAround) {
  TestQueue t({.event_index = true});
  for (int i = 0; i < 70000; ++i) {
    const std::optional<uint16_t> head = t.driver.Add({{kData, 4, true}});
    ASSERT_TRUE(head.has_value()) << i;
    ASSERT_TRUE(t.Pop()) << i;
    t.queue.Complete(*head, 4);
    static_cast<void>(t.queue.Publish());
    ASSERT_FALSE(t.queue.RearmDoorbell());
    ASSERT_EQ(t.driver.PopUsed()->id, *head);
  }
  EXPECT_TRUE(t.violations.empty());
}

// A vhost-user back end has the file in which the log lies.
TEST(VirtqueueTest, WhatAnotherProcessWritesIntoTheLogChangesNothing) {
  for (const uint16_t lie : {0, 1, 2, 7, 8, 0x0707, 0x8000, 0xffff}) {
    SCOPED_TRACE(lie);
    FakeServices services({{0, kMiB}});
    FakeQueue driver(services.memory(), kRings, kSize, /*event_index=*/false);
    std::vector<std::string> violations;
    std::vector<uint64_t> log(InFlightLog::SizeBytes(kSize) / sizeof(uint64_t));
    const absl::Span<uint16_t> words(reinterpret_cast<uint16_t*>(log.data()),
                                     log.size() * sizeof(uint64_t) / sizeof(uint16_t));
    Virtqueue queue(
        kSize, [&](absl::string_view what) { violations.emplace_back(what); },
        absl::MakeSpan(reinterpret_cast<uint8_t*>(log.data()), log.size() * sizeof(uint64_t)));
    ASSERT_TRUE(queue.Enable(services.memory(), driver.setup(), false, false).ok());
    queue.SetServing(true);
    std::vector<iovec> storage(kSize);
    DescriptorChain chain;
    // Several at a time, completed in another order, again and again.
    for (int round = 0; round < 10; ++round) {
      std::vector<uint16_t> heads;
      for (int i = 0; i < kSize; ++i) {
        heads.push_back(driver.Add({{kData, 4, true}}).value());
        std::fill(words.begin(), words.end(), lie);
        ASSERT_TRUE(queue.Pop(absl::MakeSpan(storage), chain)) << violations.at(0);
        ASSERT_EQ(chain.head, heads.back());
      }
      while (!heads.empty()) {
        queue.Complete(heads.back(), 4);
        std::fill(words.begin(), words.end(), lie);
        EXPECT_TRUE(queue.Publish());
        std::fill(words.begin(), words.end(), lie);
        EXPECT_EQ(driver.PopUsed().value().id, heads.back());
        heads.pop_back();
      }
    }
    EXPECT_TRUE(violations.empty());
  }
}

// As Linux makes them of physically contiguous pages, once memory was added at run time.
TEST(VirtqueueTest, ABufferAcrossAdjoiningRangesOfMemoryBecomesSeveral) {
  FakeServices services({{0, kMiB}, {kMiB, kMiB}, {2 * kMiB, kMiB}});
  FakeQueue driver(services.memory(), kRings, kSize, /*event_index=*/false);
  std::vector<std::string> violations;
  Virtqueue queue(kSize, [&](absl::string_view what) { violations.emplace_back(what); });
  ASSERT_TRUE(
      queue.Enable(services.memory(), driver.setup(), false, /*indirect_descriptors=*/true).ok());
  queue.SetServing(true);
  std::vector<iovec> storage(Virtqueue::StorageSize(kSize, services.memory()));
  EXPECT_EQ(storage.size(), 2u * kSize);

  const std::vector<Buffer> buffers = {{kData, 16, false},
                                       {kMiB - 100, 300, false},
                                       {2 * kMiB - 4096, 8192, true},
                                       {kData + 100, 1, true}};
  // The second table lies across two ranges as well.
  const uint16_t direct = driver.Add(buffers).value();
  const uint16_t indirect = driver.AddIndirect(buffers, kMiB - 16 - 8).value();
  for (const uint16_t head : {direct, indirect}) {
    DescriptorChain chain;
    ASSERT_TRUE(queue.Pop(absl::MakeSpan(storage), chain)) << violations.at(0);
    EXPECT_EQ(chain.head, head);
    ASSERT_EQ(chain.readable.size(), 3u);
    EXPECT_EQ(chain.readable[1].iov_base, services.memory().HostPointer(kMiB - 100, 100));
    EXPECT_EQ(chain.readable[1].iov_len, 100u);
    EXPECT_EQ(chain.readable[2].iov_base, services.memory().HostPointer(kMiB, 200));
    EXPECT_EQ(chain.readable[2].iov_len, 200u);
    ASSERT_EQ(chain.writable.size(), 3u);
    EXPECT_EQ(chain.writable[0].iov_len, 4096u);
    EXPECT_EQ(chain.writable[1].iov_base, services.memory().HostPointer(2 * kMiB, 4096));
    EXPECT_EQ(chain.writable[2].iov_len, 1u);
    queue.Complete(head, 8193);
  }
  // As many as there are descriptors, each across a boundary.
  DescriptorChain chain;
  ASSERT_TRUE(queue.Publish());
  while (driver.PopUsed().has_value()) {
  }
  ASSERT_TRUE(driver.Add(std::vector<Buffer>(kSize, {kMiB - 1, 2, true})).has_value());
  ASSERT_TRUE(queue.Pop(absl::MakeSpan(storage), chain)) << violations.at(0);
  EXPECT_EQ(chain.writable.size(), 2u * kSize);
  queue.Complete(chain.head, 0);
  // Larger than a range, several times in a row, which no driver needs.
  EXPECT_TRUE(queue.Publish());
  EXPECT_TRUE(driver.PopUsed().has_value());
  ASSERT_TRUE(driver.Add(std::vector<Buffer>(kSize, {0, 3 << 20, true})).has_value());
  EXPECT_FALSE(queue.Pop(absl::MakeSpan(storage), chain));
  EXPECT_EQ(violations.size(), 1u);
}

TEST(VirtqueueTest, IndirectTableIsFollowedAfterDirectDescriptors) {
  TestQueue t({.indirect = true});
  const Descriptor table[] = {{kData + 0x100, 100, kDescriptorNext, 2},
                              {kData + 0x300, 300, kDescriptorWrite, 0},
                              {kData + 0x200, 200, kDescriptorNext, 1}};
  ASSERT_TRUE(t.services.memory().WriteObject(kTable, table));
  t.driver.WriteDescriptor(0, {kData, 16, kDescriptorNext, 5});
  // The write flag of the reference itself has no meaning (2.7.5.3.2).
  t.driver.WriteDescriptor(5, {kTable, sizeof(table), kDescriptorIndirect | kDescriptorWrite, 0});
  t.driver.MakeAvailable(0);
  ASSERT_TRUE(t.Pop());
  ASSERT_EQ(t.chain.readable.size(), 3u);
  EXPECT_EQ(t.chain.readable[1].iov_len, 100u);
  EXPECT_EQ(t.chain.readable[2].iov_len, 200u);
  ASSERT_EQ(t.chain.writable.size(), 1u);
  EXPECT_EQ(t.chain.writable[0].iov_base, t.Host(kData + 0x300));
}

TEST(VirtqueueTest, IndirectTableMayBeMisalignedAndAsLongAsTheQueue) {
  TestQueue t({.indirect = true});
  std::vector<Buffer> buffers(kSize, Buffer{kData, 8, true});
  ASSERT_TRUE(t.driver.AddIndirect(buffers, kTable + 3).has_value());
  ASSERT_TRUE(t.Pop());
  EXPECT_EQ(t.chain.writable.size(), kSize);
}

TEST(VirtqueueTest, EmptyDescriptorsAreSkipped) {
  TestQueue t;
  // The address of an empty buffer means nothing.
  t.driver.Add({{0xffffffffffff, 0, false}, {kData, 4, false}, {kData, 4, true}, {0, 0, true}});
  ASSERT_TRUE(t.Pop());
  EXPECT_EQ(t.chain.readable.size(), 1u);
  EXPECT_EQ(t.chain.writable.size(), 1u);
}

// --- A hostile driver --------------------------------------------------------------------------

struct HostileCase {
  const char* name;
  void (*act)(TestQueue& t);
  const char* violation;  // part of the message
};

std::ostream& operator<<(std::ostream& out, const HostileCase& c) { return out << c.name; }

class HostileDriverTest : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileDriverTest, IsReportedOnceAndStopsTheQueue) {
  TestQueue t({.indirect = true});
  GetParam().act(t);
  while (t.Pop()) {
  }
  ASSERT_EQ(t.violations.size(), 1u);
  EXPECT_NE(t.violations[0].find(GetParam().violation), std::string::npos) << t.violations[0];
  EXPECT_FALSE(t.queue.serving());
  t.queue.SetServing(true);
  EXPECT_FALSE(t.queue.serving()) << "only a reset mends it";
  EXPECT_FALSE(t.Pop());
  EXPECT_FALSE(t.queue.RearmDoorbell());
  EXPECT_EQ(t.violations.size(), 1u);
}

void AddTable(TestQueue& t, const std::vector<Descriptor>& entries, uint32_t length,
              GuestAddress table = kTable) {
  for (size_t i = 0; i < entries.size(); ++i) {
    t.services.memory().WriteObject(table + 16 * i, entries[i]);
  }
  t.driver.WriteDescriptor(0, {table, length, kDescriptorIndirect, 0});
  t.driver.MakeAvailable(0);
}

const HostileCase kHostileCases[] = {
    {"AvailableIndexJumps", [](TestQueue& t) { t.driver.SetAvailableIdx(kSize + 1); }, "9 ahead"},
    {"AvailableIndexGoesBack", [](TestQueue& t) { t.driver.SetAvailableIdx(0xffff); }, "ahead"},
    {"HeadOutsideTheTable", [](TestQueue& t) { t.driver.MakeAvailable(kSize); }, "descriptor 8"},
    {"NextOutsideTheTable",
     [](TestQueue& t) {
       t.driver.WriteDescriptor(0, {kData, 4, kDescriptorNext, kSize});
       t.driver.MakeAvailable(0);
     },
     "descriptor 8"},
    {"SelfLoop",
     [](TestQueue& t) {
       t.driver.WriteDescriptor(0, {kData, 4, kDescriptorNext, 0});
       t.driver.MakeAvailable(0);
     },
     "more than 8"},
    {"LoopOfEmptyDescriptors",
     [](TestQueue& t) {
       t.driver.WriteDescriptor(0, {kData, 0, kDescriptorNext, 1});
       t.driver.WriteDescriptor(1, {kData, 0, kDescriptorNext, 0});
       t.driver.MakeAvailable(0);
     },
     "more than 8"},
    {"ReadableAfterWritable",
     [](TestQueue& t) { t.driver.Add({{kData, 4, true}, {kData, 4, false}}); },
     "follows a writable"},
    {"BufferInTheHole", [](TestQueue& t) { t.driver.Add({{kMiB, 4, true}}); }, "outside memory"},
    {"BufferAcrossTheEnd", [](TestQueue& t) { t.driver.Add({{3 * kMiB - 2, 4, true}}); },
     "outside memory"},
    {"BufferWrapsAround", [](TestQueue& t) { t.driver.Add({{~uint64_t{0}, 0x1000, true}}); },
     "outside memory"},
    {"HugeBuffer", [](TestQueue& t) { t.driver.Add({{kData, 0xffffffff, true}}); },
     "outside memory"},
    {"HeadAvailableTwice",
     [](TestQueue& t) {
       t.driver.WriteDescriptor(3, {kData, 4, 0, 0});
       t.driver.MakeAvailable(3);
       t.driver.MakeAvailable(3);
     },
     "while in flight"},
    {"IndirectInIndirect",
     [](TestQueue& t) { AddTable(t, {{kTable, 16, kDescriptorIndirect, 0}}, 16); },
     "in an indirect table"},
    {"IndirectWithNext",
     [](TestQueue& t) {
       t.driver.WriteDescriptor(0, {kTable, 16, kDescriptorIndirect | kDescriptorNext, 1});
       t.driver.MakeAvailable(0);
     },
     "with a next one"},
    {"IndirectOfNoBytes", [](TestQueue& t) { AddTable(t, {}, 0); }, "table of 0 bytes"},
    {"IndirectOfOddLength", [](TestQueue& t) { AddTable(t, {{kData, 4, 0, 0}}, 17); },
     "table of 17 bytes"},
    {"IndirectOutsideMemory", [](TestQueue& t) { AddTable(t, {}, 16, kMiB + 16); },
     "is outside memory"},
    {"IndirectAcrossTheEnd", [](TestQueue& t) { AddTable(t, {}, 32, kMiB - 16); },
     "is outside memory"},
    {"IndirectNextOutsideTheTable",
     [](TestQueue& t) { AddTable(t, {{kData, 4, kDescriptorNext, 1}}, 16); }, "table of 1"},
    {"IndirectLoop", [](TestQueue& t) { AddTable(t, {{kData, 4, kDescriptorNext, 0}}, 16); },
     "more than 8"},
    {"IndirectTooLong",
     [](TestQueue& t) {
       std::vector<Descriptor> entries;
       for (uint16_t i = 0; i <= kSize; ++i) {
         const uint16_t flags = i == kSize ? 0 : kDescriptorNext;
         entries.push_back({kData, 4, flags, static_cast<uint16_t>(i + 1)});
       }
       AddTable(t, entries, 16 * (kSize + 1));
     },
     "more than 8"},
};

INSTANTIATE_TEST_SUITE_P(All, HostileDriverTest, testing::ValuesIn(kHostileCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(VirtqueueTest, IndirectWithoutTheFeatureIsAViolation) {
  TestQueue t({.indirect = false});
  t.driver.AddIndirect({{kData, 4, true}}, kTable);
  EXPECT_FALSE(t.Pop());
  EXPECT_EQ(t.violations.size(), 1u);
}

struct BadSetup {
  const char* name;
  void (*change)(QueueSetup& setup);
};

TEST(VirtqueueTest, EnableRefusesImpossibleSetUps) {
  const BadSetup kCases[] = {
      {"size 0", [](QueueSetup& s) { s.size = 0; }},
      {"size 3", [](QueueSetup& s) { s.size = 3; }},
      {"size above the maximum", [](QueueSetup& s) { s.size = 16; }},
      {"descriptor table misaligned", [](QueueSetup& s) { s.descriptor_table += 8; }},
      {"available ring misaligned", [](QueueSetup& s) { s.driver_area += 1; }},
      {"used ring misaligned", [](QueueSetup& s) { s.device_area += 2; }},
      {"descriptor table outside", [](QueueSetup& s) { s.descriptor_table = kMiB; }},
      {"descriptor table across", [](QueueSetup& s) { s.descriptor_table = kMiB - 16; }},
      {"available ring outside", [](QueueSetup& s) { s.driver_area = ~uint64_t{1}; }},
      {"used ring across", [](QueueSetup& s) { s.device_area = kMiB - 64; }},
  };
  TestQueue t;
  t.queue.Disable();
  for (const BadSetup& c : kCases) {
    QueueSetup setup = t.driver.setup();
    c.change(setup);
    EXPECT_FALSE(t.queue.Enable(t.services.memory(), setup, true, true).ok()) << c.name;
    EXPECT_FALSE(t.queue.enabled()) << c.name;
  }
}

TEST(VirtqueueTest, RingsMayEndWithMemoryWhereThereIsNoEventIndex) {
  TestQueue t;
  t.queue.Disable();
  QueueSetup setup = t.driver.setup();
  setup.device_area = kMiB - (kUsedRing + kUsedElementSize * kSize);
  EXPECT_TRUE(t.queue.Enable(t.services.memory(), setup, false, false).ok());
  t.queue.Disable();
  EXPECT_FALSE(t.queue.Enable(t.services.memory(), setup, true, false).ok());
}

// --- Notifications -----------------------------------------------------------------------------

TEST(VirtqueueTest, WithoutEventIndexFlagsSuppressDoorbellsAndInterrupts) {
  TestQueue t;
  t.driver.Add({{kData, 4, true}});
  EXPECT_TRUE(t.driver.NeedsDoorbell());
  t.queue.SuppressDoorbells();
  EXPECT_FALSE(t.driver.NeedsDoorbell());
  ASSERT_TRUE(t.Pop());
  t.queue.Complete(t.chain.head, 0);
  EXPECT_TRUE(t.queue.Publish());
  EXPECT_FALSE(t.queue.RearmDoorbell());

  t.driver.Add({{kData, 4, true}});
  EXPECT_TRUE(t.driver.NeedsDoorbell());
  ASSERT_TRUE(t.Pop());
  t.driver.DisableInterrupts();
  t.queue.Complete(t.chain.head, 0);
  EXPECT_FALSE(t.queue.Publish());
}

TEST(VirtqueueTest, WithEventIndexTheDriverRingsOnceForEachRearm) {
  TestQueue t({.event_index = true});
  t.driver.Add({{kData, 4, true}});
  EXPECT_TRUE(t.driver.NeedsDoorbell());
  t.driver.Add({{kData, 4, true}});
  EXPECT_FALSE(t.driver.NeedsDoorbell()) << "the device knows already";
  ASSERT_TRUE(t.Pop());
  ASSERT_TRUE(t.Pop());
  EXPECT_FALSE(t.queue.RearmDoorbell());
  t.driver.Add({{kData, 4, true}});
  EXPECT_TRUE(t.driver.NeedsDoorbell());
}

TEST(VirtqueueTest, RearmTellsOfAChainThatCameInTheMeantime) {
  for (const bool event_index : {false, true}) {
    TestQueue t({.event_index = event_index});
    t.queue.SuppressDoorbells();
    EXPECT_FALSE(t.Pop());
    t.driver.Add({{kData, 4, true}});
    EXPECT_TRUE(t.queue.RearmDoorbell());
    EXPECT_TRUE(t.Pop());
  }
}

TEST(VirtqueueTest, WithEventIndexAnInterruptComesWhenTheAskedIndexIsPassed) {
  TestQueue t({.event_index = true});
  for (int i = 0; i < 4; ++i) t.driver.Add({{kData, 4, true}});
  t.driver.DelayInterrupts(3);
  uint16_t heads[4];
  for (uint16_t& head : heads) {
    ASSERT_TRUE(t.Pop());
    head = t.chain.head;
  }
  const bool expected[] = {false, false, true, false};
  for (int i = 0; i < 4; ++i) {
    t.queue.Complete(heads[i], 0);
    EXPECT_EQ(t.queue.Publish(), expected[i]) << i;
  }
}

// --- Stopping ----------------------------------------------------------------------------------

TEST(VirtqueueTest, AStoppedQueueLeavesGuestMemoryAlone) {
  TestQueue t({.event_index = true});
  t.driver.Add({{kData, 4, true}});
  t.driver.Add({{kData, 4, true}});
  ASSERT_TRUE(t.Pop());
  t.queue.Stop();
  std::vector<uint8_t> before(FakeQueue::SizeBytes(kSize));
  ASSERT_TRUE(t.services.memory().Read(kRings, absl::MakeSpan(before)));

  EXPECT_FALSE(t.Pop());
  t.queue.SuppressDoorbells();
  EXPECT_FALSE(t.queue.RearmDoorbell());
  t.queue.Complete(t.chain.head, 4);
  EXPECT_FALSE(t.queue.Publish());

  std::vector<uint8_t> after(before.size());
  ASSERT_TRUE(t.services.memory().Read(kRings, absl::MakeSpan(after)));
  EXPECT_EQ(before, after);
  EXPECT_EQ(t.queue.in_flight(), 0u);
  t.queue.Disable();
  EXPECT_FALSE(t.queue.stopping());
}

TEST(VirtqueueTest, AQueueThatIsNotServingPopsNothing) {
  TestQueue t;
  t.driver.Add({{kData, 4, true}});
  t.queue.SetServing(false);
  EXPECT_FALSE(t.Pop());
  t.queue.SetServing(true);
  EXPECT_TRUE(t.Pop());
}

// --- Both sides at once ------------------------------------------------------------------------

// A wake-up call from one thread to another. The waiter spins instead of sleeping in the kernel:
// both sides then decide to wait, and to call, within nanoseconds of each other, and the calls
// contain no fence that could hide a missing one in the queue.
class Call {
 public:
  void Make() { made_.store(made_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
  // False: none came in a long time.
  bool Wait() {
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t spins = 0; made_.load(std::memory_order_acquire) == heard_; ++spins) {
      if (spins % 4096 != 4095) continue;
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() - start > std::chrono::seconds(10)) return false;
    }
    heard_ = made_.load(std::memory_order_acquire);
    return true;
  }

 private:
  std::atomic<uint32_t> made_ = 0;
  uint32_t heard_ = 0;
};

// Each side waits whenever it has nothing to do, and only the other's notification wakes it: a
// lost one ends in a timeout.
void RunConcurrently(bool event_index) {
  constexpr int kChains = 100000;
  constexpr int kDepth = 2;
  TestQueue t({.event_index = event_index, .indirect = false});
  Call doorbell;
  Call interrupt;

  bool device_in_time = true;
  std::atomic<bool> driver_gone = false;
  std::thread device([&] {
    int served = 0;
    while (served < kChains && !driver_gone.load()) {
      do {
        t.queue.SuppressDoorbells();
        while (t.Pop()) {
          uint32_t value;
          memcpy(&value, t.chain.readable[0].iov_base, sizeof(value));
          value = ~value;
          memcpy(t.chain.writable[0].iov_base, &value, sizeof(value));
          t.queue.Complete(t.chain.head, sizeof(value));
          if (t.queue.Publish()) interrupt.Make();
          ++served;
        }
      } while (t.queue.RearmDoorbell());
      if (served == kChains) return;
      if (!doorbell.Wait()) {
        device_in_time = false;
        return;
      }
    }
  });

  // Chain number n uses buffers number n % kDepth.
  const auto buffer_of = [](int chain) { return kData + 16 * (chain % kDepth); };
  const auto value_of = [](int chain) { return static_cast<uint32_t>(chain) * 2654435761u; };
  int added = 0;
  int done = 0;
  int wrong = 0;
  bool in_time = true;
  while (done < kChains && in_time) {
    while (added < kChains && added - done < 1 + added % kDepth) {
      const GuestAddress buffer = buffer_of(added);
      t.services.memory().WriteObject(buffer, value_of(added));
      if (!t.driver.Add({{buffer, 4, false}, {buffer + 8, 4, true}}).has_value()) ++wrong;
      ++added;
    }
    if (t.driver.NeedsDoorbell()) doorbell.Make();
    t.driver.DisableInterrupts();
    const int before = done;
    while (t.driver.PopUsed().has_value()) {
      uint32_t answer = 0;
      t.services.memory().ReadObject(buffer_of(done) + 8, answer);
      if (answer != ~value_of(done)) ++wrong;
      ++done;
    }
    if (done == before && !t.driver.EnableInterrupts()) in_time = interrupt.Wait();
  }
  driver_gone.store(true);
  doorbell.Make();
  device.join();
  EXPECT_TRUE(in_time) << "the driver waits in vain for an interrupt at chain " << done;
  EXPECT_TRUE(device_in_time) << "the device waits in vain for a doorbell";
  EXPECT_EQ(done, kChains);
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(t.violations.empty());
}

TEST(VirtqueueStressTest, NoWakeupIsLostWithFlags) { RunConcurrently(false); }
TEST(VirtqueueStressTest, NoWakeupIsLostWithEventIndex) { RunConcurrently(true); }

}  // namespace
}  // namespace bulkhead::devices::virtio
