#include "devices/virtio_balloon/page_list.h"

#include <string.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "devices/host/testing/fake_services.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// RAM of 16 pages at 0, and of 8 at 4 GiB, in two ranges that adjoin.
class PageListTest : public testing::Test {
 protected:
  static constexpr GuestAddress kHigh = uint64_t{4} << 30;
  static constexpr uint32_t kHighPage = kHigh / kBalloonPage;

  PageListTest()
      : services({{0, 16 * kBalloonPage},
                  {kHigh, 4 * kBalloonPage},
                  {kHigh + 4 * kBalloonPage, 4 * kBalloonPage}}) {}

  // As start and pages.
  std::vector<std::pair<GuestAddress, uint64_t>> Read(std::vector<uint32_t> numbers) {
    const iovec request = {numbers.data(), numbers.size() * sizeof(uint32_t)};
    return Read({&request, 1});
  }
  std::vector<std::pair<GuestAddress, uint64_t>> Read(absl::Span<const iovec> request) {
    result = list.Read(request, services.memory());
    std::vector<std::pair<GuestAddress, uint64_t>> runs;
    for (const PageRun& run : result.runs) {
      runs.emplace_back(run.start / kBalloonPage, run.size_bytes / kBalloonPage);
    }
    return runs;
  }

  FakeServices services;
  PageList list;
  PageList::Runs result;
};

TEST_F(PageListTest, PagesInAnyOrderAreFewRuns) {
  EXPECT_THAT(Read({7, 3, 5, 4, 9, 8}), ElementsAre(Pair(3, 3), Pair(7, 3)));
  EXPECT_EQ(result.pages, 6u);
  EXPECT_EQ(result.left_out, 0u);
}

TEST_F(PageListTest, APageThatIsNamedTwiceCountsOnce) {
  EXPECT_THAT(Read({4, 4, 5, 4}), ElementsAre(Pair(4, 2)));
  EXPECT_EQ(result.pages, 2u);
}

TEST_F(PageListTest, WhatIsNotRamIsLeftOut) {
  EXPECT_THAT(Read({15, 16, 17, 0xffffffff, kHighPage - 1, kHighPage, kHighPage + 8}),
              ElementsAre(Pair(15, 1), Pair(kHighPage, 1)));
  EXPECT_EQ(result.pages, 2u);
  EXPECT_EQ(result.left_out, 5u);
}

TEST_F(PageListTest, ARunGoesOnInTheNextRangeOfRam) {
  EXPECT_THAT(Read({kHighPage + 5, kHighPage + 3, kHighPage + 4, kHighPage + 2}),
              ElementsAre(Pair(kHighPage + 2, 4)));
}

TEST_F(PageListTest, ANumberMayLieAcrossBuffersAndHalfAOneIsLeftOut) {
  const uint32_t numbers[] = {2, 3, 11};
  uint8_t bytes[sizeof(numbers)];
  memcpy(bytes, numbers, sizeof(bytes));
  const iovec request[] = {{bytes, 1}, {bytes + 1, 0}, {bytes + 1, 5}, {bytes + 6, 5}};
  EXPECT_THAT(Read(request), ElementsAre(Pair(2, 2)));
  EXPECT_EQ(result.left_out, 1u);
}

TEST_F(PageListTest, ALongRequestIsCut) {
  std::vector<uint32_t> numbers(PageList::kMaxPages + 100, 1);
  numbers.back() = 9;
  EXPECT_THAT(Read(numbers), ElementsAre(Pair(1, 1)));
  EXPECT_EQ(result.left_out, 100u);
}

TEST_F(PageListTest, AnEmptyRequestNamesNothing) {
  EXPECT_THAT(Read(absl::Span<const iovec>()), IsEmpty());
  EXPECT_EQ(result.pages + result.left_out, 0u);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
