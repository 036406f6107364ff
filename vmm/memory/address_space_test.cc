#include "vmm/memory/address_space.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr Waiter kWaiter = 3;

// Answers reads with its own number in the high half and the offset in the low half.
class NumberedHandler : public IoHandler {
 public:
  explicit NumberedHandler(uint64_t number) : number_(number) {}

  uint64_t Read(Waiter, uint64_t offset, uint8_t) override { return (number_ << 32) | offset; }
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override {
    last_waiter = waiter;
    last_offset = offset;
    last_size = size_bytes;
    last_value = value;
    writes.fetch_add(1, std::memory_order_relaxed);
  }

  Waiter last_waiter = 0;
  uint64_t last_offset = 0;
  uint8_t last_size = 0;
  uint64_t last_value = 0;
  std::atomic<int> writes{0};

 private:
  const uint64_t number_;
};

TEST(AddressSpaceTest, AccessReachesItsHandlerWithTheOffsetInTheRange) {
  AddressSpace space;
  NumberedHandler low(1), high(2);
  ASSERT_TRUE(space.Insert(0x2000, 0x1000, &high).ok());
  ASSERT_TRUE(space.Insert(0x1000, 0x1000, &low).ok());
  AddressSpace::View view(space);

  EXPECT_EQ(view.Read(kWaiter, 0x1ff8, 8), 0x1'00000ff8u);
  EXPECT_EQ(view.Read(kWaiter, 0x2000, 4), 0x2'00000000u);
  view.Write(kWaiter, 0x2abc, 2, 0x1234);
  EXPECT_EQ(high.last_waiter, kWaiter);
  EXPECT_EQ(high.last_offset, 0xabcu);
  EXPECT_EQ(high.last_size, 2);
  EXPECT_EQ(high.last_value, 0x1234u);
  EXPECT_EQ(space.unclaimed_accesses(), 0u);
}

TEST(AddressSpaceTest, AccessOutsideEveryRangeReadsAllOnesOfItsWidthAndIsCounted) {
  AddressSpace space;
  NumberedHandler handler(1);
  ASSERT_TRUE(space.Insert(0x1000, 0x10, &handler).ok());
  AddressSpace::View view(space);

  EXPECT_EQ(view.Read(kWaiter, 0xfff, 1), 0xffu);
  EXPECT_EQ(view.Read(kWaiter, 0x1010, 2), 0xffffu);
  EXPECT_EQ(view.Read(kWaiter, UINT64_MAX, 4), 0xffffffffu);
  EXPECT_EQ(view.Read(kWaiter, 0, 8), UINT64_MAX);
  view.Write(kWaiter, 0x1010, 4, 1);
  EXPECT_EQ(handler.writes, 0);
  EXPECT_EQ(space.unclaimed_accesses(), 5u);
}

TEST(AddressSpaceTest, AccessThatLeavesItsRangeIsUnclaimedEvenBesideAnother) {
  AddressSpace space;
  NumberedHandler first(1), second(2);
  ASSERT_TRUE(space.Insert(0x1000, 0x10, &first).ok());
  ASSERT_TRUE(space.Insert(0x1010, 0x10, &second).ok());
  AddressSpace::View view(space);

  EXPECT_EQ(view.Read(kWaiter, 0x100c, 4), 0x1'0000000cu);
  EXPECT_EQ(view.Read(kWaiter, 0x100d, 4), 0xffffffffu);
  view.Write(kWaiter, 0x101c, 8, 0);
  EXPECT_EQ(first.writes + second.writes, 0);
  EXPECT_EQ(space.unclaimed_accesses(), 2u);
}

TEST(AddressSpaceTest, RangesUpToTheLastAddressWork) {
  AddressSpace space;
  NumberedHandler handler(1);
  ASSERT_TRUE(space.Insert(UINT64_MAX - 0xf, 0x10, &handler).ok());
  AddressSpace::View view(space);
  EXPECT_EQ(view.Read(kWaiter, UINT64_MAX, 1), 0x1'0000000fu);
  EXPECT_EQ(view.Read(kWaiter, UINT64_MAX, 2), 0xffffu);
}

TEST(AddressSpaceTest, InsertRefusesOverlapEmptyAndWrappingRanges) {
  AddressSpace space;
  NumberedHandler handler(1);
  ASSERT_TRUE(space.Insert(0x1000, 0x1000, &handler).ok());
  using Case = std::pair<uint64_t, uint64_t>;
  for (const auto& [start, size] : {Case{0x1000, 0x1000}, Case{0x0, 0x1001}, Case{0x1fff, 1},
                                    Case{0x1800, 0x10}, Case{0x0, UINT64_MAX}}) {
    EXPECT_EQ(space.Insert(start, size, &handler).code(), absl::StatusCode::kAlreadyExists)
        << start;
  }
  EXPECT_EQ(space.Insert(0x5000, 0, &handler).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(space.Insert(0x5000, UINT64_MAX, &handler).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(space.Insert(0x0, 0x1000, &handler).ok());
  EXPECT_TRUE(space.Insert(0x2000, 1, &handler).ok());
}

TEST(AddressSpaceTest, OlderViewsSeeRemovalAndReplacementAtTheirNextAccess) {
  AddressSpace space;
  NumberedHandler before(1), after(2);
  ASSERT_TRUE(space.Insert(0x1000, 0x1000, &before).ok());
  AddressSpace::View view(space);
  EXPECT_EQ(view.Read(kWaiter, 0x1000, 4), 0x1'00000000u);

  ASSERT_TRUE(space.Remove(0x1000).ok());
  EXPECT_EQ(view.Read(kWaiter, 0x1000, 4), 0xffffffffu);
  ASSERT_TRUE(space.Insert(0x1000, 0x1000, &after).ok());
  EXPECT_EQ(view.Read(kWaiter, 0x1000, 4), 0x2'00000000u);
  EXPECT_EQ(space.Remove(0x1001).code(), absl::StatusCode::kNotFound);
}

// A BAR moves back and forth while vCPUs read. Every read must be answered by a handler that was
// mapped there at some time, with the right offset, or read as all ones.
TEST(AddressSpaceTest, ReadersDuringBarMovesSeeOneStateOrTheOther) {
  AddressSpace space;
  NumberedHandler fixed(1), moving(2);
  ASSERT_TRUE(space.Insert(0x10000, 0x1000, &fixed).ok());
  ASSERT_TRUE(space.Insert(0x20000, 0x1000, &moving).ok());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  std::atomic<int> rounds[3] = {};
  std::vector<std::thread> readers;
  for (Waiter reader = 0; reader < 3; ++reader) {
    readers.emplace_back([&, reader] {
      AddressSpace::View view(space);
      while (!stop.load(std::memory_order_relaxed)) {
        if (view.Read(reader, 0x10010, 4) != 0x1'00000010u) wrong.fetch_add(1);
        for (uint64_t base : {0x20000u, 0x30000u}) {
          const uint64_t value = view.Read(reader, base + 0x20, 4);
          if (value != 0x2'00000020u && value != 0xffffffffu) wrong.fetch_add(1);
        }
        rounds[reader].fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  uint64_t at = 0x20000;
  const auto every_reader_made = [&](int count) {
    return std::all_of(std::begin(rounds), std::end(rounds),
                       [=](const std::atomic<int>& made) { return made.load() >= count; });
  };
  for (int move = 0; move < 2000 || !every_reader_made(1000); ++move) {
    ASSERT_TRUE(space.Remove(at).ok());
    at = at == 0x20000 ? 0x30000 : 0x20000;
    ASSERT_TRUE(space.Insert(at, 0x1000, &moving).ok());
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(space.unclaimed_accesses(), 0u);
}

}  // namespace
}  // namespace bulkhead::vmm
