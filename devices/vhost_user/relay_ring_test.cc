// What a successor finds in a ring whose process died between any two steps.
#include "devices/vhost_user/relay_ring.h"

#include <stdlib.h>
#include <string.h>

#include <map>
#include <memory>
#include <vector>

#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr uint16_t kSize = 8;
constexpr size_t kBuffers = 16;
constexpr GuestAddress kAddress = GuestAddress{1} << 40;

class RelayRingTest : public testing::Test {
 protected:
  RelayRingTest() : ring_(memory_.get(), kAddress, kSize, kBuffers) { ring_.Clear(); }

  // As the back end does it.
  void BackEndCompletes(uint16_t head, uint32_t written) {
    uint8_t* const used = memory_.get() + (ring_.setup().device_area - kAddress);
    uint16_t index = 0;
    memcpy(&index, used + virtio::kUsedIdx, sizeof(index));
    const uint32_t entry[] = {head, written};
    memcpy(used + virtio::kUsedRing + virtio::kUsedElementSize * (index % kSize), entry,
           sizeof(entry));
    ++index;
    memcpy(used + virtio::kUsedIdx, &index, sizeof(index));
  }
  // Takes what is completed, as for a driver whose used index is `used`, but for Shown().
  void Pop(uint16_t used) {
    EXPECT_TRUE(ring_.Pop(used, [](uint16_t, uint32_t) {}).ok());
  }
  // By head, what a successor finds.
  std::map<uint16_t, uint32_t> Recovered(uint16_t used) const {
    const RelayRing successor(memory_.get(), kAddress, kSize, kBuffers);
    std::map<uint16_t, uint32_t> completions;
    for (const RelayRing::Completion& done : successor.Recover(used)) {
      EXPECT_TRUE(completions.emplace(done.head, done.written).second) << "once";
    }
    return completions;
  }

  const std::unique_ptr<uint8_t, decltype(&free)> memory_{
      static_cast<uint8_t*>(aligned_alloc(4096, RelayRing::SizeBytes(kSize, kBuffers))), free};
  RelayRing ring_;
};

using Completions = std::map<uint16_t, uint32_t>;

TEST_F(RelayRingTest, WhatTheBackEndHasCompletedIsFound) {
  for (const uint16_t head : {3, 5, 6}) ring_.Push(head);
  EXPECT_EQ(Recovered(0), Completions());
  BackEndCompletes(5, 100);
  BackEndCompletes(3, 0);
  EXPECT_EQ(Recovered(0), (Completions{{5, 100}, {3, 0}}));
}

TEST_F(RelayRingTest, WhatWasTakenIsFoundUntilTheDriverSeesIt) {
  for (const uint16_t head : {3, 5, 6}) ring_.Push(head);
  BackEndCompletes(5, 0);
  BackEndCompletes(3, 0);
  Pop(/*used=*/0xffff);
  EXPECT_EQ(Recovered(0xffff), (Completions{{5, 0}, {3, 0}}));
  EXPECT_EQ(Recovered(0), (Completions{{3, 0}})) << "the driver sees one";
  EXPECT_EQ(Recovered(1), Completions()) << "both may be other requests now";
  BackEndCompletes(6, 0);
  EXPECT_EQ(Recovered(1), (Completions{{6, 0}}));
}

// The successor may die, too, before or after the driver sees what it has recovered.
TEST_F(RelayRingTest, WhatASuccessorHasShownIsNotFoundByTheNextOne) {
  for (const uint16_t head : {3, 5, 6}) ring_.Push(head);
  BackEndCompletes(5, 10);
  BackEndCompletes(3, 0);
  RelayRing successor(memory_.get(), kAddress, kSize, kBuffers);
  successor.NoteRecovered(successor.Recover(/*used=*/7), 7);
  EXPECT_EQ(Recovered(7), (Completions{{5, 10}, {3, 0}}));
  EXPECT_EQ(Recovered(9), Completions()) << "these chains may be other requests now";
  BackEndCompletes(6, 0);
  EXPECT_EQ(Recovered(9), (Completions{{6, 0}}));
}

TEST_F(RelayRingTest, NothingIsLeftOfOldCompletions) {
  uint16_t used = 0;
  for (int i = 0; i < 100'000; ++i) {
    const auto head = static_cast<uint16_t>(i * 5 % kSize);
    ring_.Push(head);
    BackEndCompletes(head, 0);
    Pop(used++);
    ring_.Shown();
    if (i % 1000 == 0) {
      EXPECT_EQ(Recovered(used), Completions());
    }
  }
  // Also for a driver far away.
  for (uint32_t other = 0; other < 0x10000; other += 97) {
    EXPECT_EQ(Recovered(static_cast<uint16_t>(other)), Completions());
  }
}

TEST_F(RelayRingTest, NothingIsFoundInAnEmptiedRing) {
  for (const uint16_t head : {1, 2}) ring_.Push(head);
  BackEndCompletes(2, 0);
  BackEndCompletes(1, 0);
  Pop(0);
  ring_.Clear();
  EXPECT_EQ(Recovered(0), Completions());
}

// It has the memory, and may write there what it likes.
TEST_F(RelayRingTest, ALyingBackEndNamesNoImpossibleChains) {
  srand(1);
  for (int i = 0; i < 2000; ++i) {
    const size_t begin = ring_.setup().device_area - kAddress;
    for (size_t at = begin; at < begin + 8192; ++at) {
      memory_.get()[at] = static_cast<uint8_t>(rand());
    }
    for (const auto& [head, written] : Recovered(static_cast<uint16_t>(rand()))) {
      EXPECT_LT(head, kSize);
    }
  }
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user
