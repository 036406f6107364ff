#include "devices/virtio_net/receive_queue.h"

#include <stdint.h>
#include <string.h>

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr size_t kStorage = 4;

class ReceiveQueueTest : public testing::Test {
 protected:
  // A chain of buffers of these sizes, in memory of its own.
  bool Add(uint16_t head, const std::vector<size_t>& sizes) {
    const absl::Span<iovec> room = queue.Room();
    if (room.size() < sizes.size()) return false;
    for (size_t i = 0; i < sizes.size(); ++i) {
      memory.emplace_back(sizes[i], '.');
      room[i] = {memory.back().data(), sizes[i]};
    }
    return queue.Add({.head = head, .readable = {}, .writable = room.first(sizes.size())});
  }
  using Used = std::vector<std::pair<uint16_t, uint32_t>>;
  Used Take(uint64_t size) {
    Used used;
    queue.Take(size, [&](uint16_t head, uint32_t bytes) { used.emplace_back(head, bytes); });
    return used;
  }
  void Write(const std::string& text, uint64_t offset = 0) {
    queue.Write(offset,
                absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }

  ReceiveQueue queue{kStorage};
  std::deque<std::string> memory;
};

TEST_F(ReceiveQueueTest, AFrameLiesInSeveralMergeableBuffers) {
  ASSERT_TRUE(Add(7, {10, 6}));
  ASSERT_TRUE(Add(8, {16}));
  ASSERT_TRUE(Add(9, {16}));
  uint64_t bytes = 0;
  EXPECT_EQ(queue.Buffers(17, true, 99, bytes).size(), 3u);
  EXPECT_EQ(bytes, 32u);
  EXPECT_EQ(queue.ChainsFor(16), 1u);
  EXPECT_EQ(queue.ChainsFor(17), 2u);
  EXPECT_EQ(Take(17), (Used{{7, 16}, {8, 1}}));
  EXPECT_EQ(queue.bytes(), 16u);
  EXPECT_EQ(Take(16), (Used{{9, 16}}));
  EXPECT_TRUE(queue.empty());
}

TEST_F(ReceiveQueueTest, WithoutMergeableBuffersAFrameGoesToOneChain) {
  ASSERT_TRUE(Add(1, {10, 10}));
  ASSERT_TRUE(Add(2, {100}));
  uint64_t bytes = 0;
  EXPECT_EQ(queue.Buffers(50, false, 99, bytes).size(), 2u);
  EXPECT_EQ(bytes, 20u);
}

TEST_F(ReceiveQueueTest, BuffersAreBounded) {
  for (uint16_t i = 0; i < 4; ++i) ASSERT_TRUE(Add(i, {10}));
  uint64_t bytes = 0;
  EXPECT_EQ(queue.Buffers(1000, true, 2, bytes).size(), 2u);
  EXPECT_EQ(bytes, 20u);
}

TEST_F(ReceiveQueueTest, BytesAreReadAndWrittenAcrossBuffers) {
  ASSERT_TRUE(Add(1, {3, 2}));
  ASSERT_TRUE(Add(2, {8}));
  Write("abcdefg", 2);
  EXPECT_EQ(memory[0], "..a");
  EXPECT_EQ(memory[1], "bc");
  EXPECT_EQ(memory[2], "defg....");
  uint8_t read[4];
  queue.Read(4, absl::MakeSpan(read));
  EXPECT_EQ(std::string(read, read + 4), "cdef");
}

TEST_F(ReceiveQueueTest, AnEmptyChainIsNotTaken) {
  EXPECT_FALSE(Add(1, {}));
  EXPECT_TRUE(queue.empty());
}

TEST_F(ReceiveQueueTest, RoomComesBackAndOrderStays) {
  uint16_t added = 0;
  uint16_t taken = 0;
  for (int round = 0; round < 50; ++round) {
    while (Add(added, {5, 5, 5})) ++added;
    EXPECT_GE(added - taken, 2);
    Write("frame");
    EXPECT_EQ(Take(5), (Used{{taken++, 5}}));
  }
  std::vector<uint16_t> rest;
  queue.Clear([&](uint16_t head) { rest.push_back(head); });
  EXPECT_EQ(rest.front(), taken);
  EXPECT_EQ(rest.size(), static_cast<size_t>(added - taken));
  EXPECT_EQ(queue.bytes(), 0u);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
