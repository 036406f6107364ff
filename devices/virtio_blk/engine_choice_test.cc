#include "devices/virtio_blk/engine_choice.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kTwoTrials = 4 * EngineChoice::kMinRest;

// Writes one after another, which take so long with each engine. Returns how many went aside.
uint32_t Write(EngineChoice& choice, uint32_t count, absl::Duration ring, absl::Duration side) {
  uint32_t aside = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const bool is_side = choice.NextIsSide(4096);
    aside += is_side;
    choice.Ended(is_side, 4096, is_side ? side : ring);
  }
  return aside;
}

TEST(EngineChoiceTest, PrefersIoUringUnlessThreadsAreMuchFaster) {
  EngineChoice choice;
  Write(choice, kTwoTrials, absl::Microseconds(100), absl::Microseconds(80));
  EXPECT_FALSE(choice.prefers_side());
  Write(choice, EngineChoice::kMaxRest, absl::Microseconds(200), absl::Microseconds(80));
  EXPECT_TRUE(choice.prefers_side());
}

TEST(EngineChoiceTest, GoesBackAsSoonAsThreadsAreNoFaster) {
  EngineChoice choice;
  Write(choice, kTwoTrials, absl::Microseconds(200), absl::Microseconds(80));
  ASSERT_TRUE(choice.prefers_side());
  Write(choice, 2 * EngineChoice::kMaxRest, absl::Microseconds(90), absl::Microseconds(80));
  EXPECT_TRUE(choice.prefers_side());
  Write(choice, 2 * EngineChoice::kMaxRest, absl::Microseconds(80), absl::Microseconds(80));
  EXPECT_FALSE(choice.prefers_side());
}

TEST(EngineChoiceTest, OneStallDoesNotCount) {
  EngineChoice choice;
  uint32_t aside = 0;
  for (int i = 0; aside < 10; ++i) {
    const bool is_side = choice.NextIsSide(4096);
    aside += is_side;
    choice.Ended(is_side, 4096, absl::Microseconds(80));
  }
  choice.Ended(/*is_side=*/false, 4096, absl::Seconds(2));  // in the middle of a trial
  Write(choice, kTwoTrials, absl::Microseconds(80), absl::Microseconds(80));
  EXPECT_FALSE(choice.prefers_side());
}

TEST(EngineChoiceTest, TrialsCostLittleWhileNothingChanges) {
  EngineChoice choice;
  Write(choice, 4 * EngineChoice::kMaxRest, absl::Microseconds(80), absl::Microseconds(100));
  const uint32_t writes = 16 * EngineChoice::kMaxRest;
  EXPECT_LT(Write(choice, writes, absl::Microseconds(80), absl::Microseconds(100)), writes / 1000);
}

// A guest writes seven small blocks, then a large one.
TEST(EngineChoiceTest, OnlyWritesOfOneLengthAreCompared) {
  EngineChoice choice;
  for (uint32_t i = 0; i < 4 * EngineChoice::kMaxRest; ++i) {
    const uint64_t length = i % 8 == 0 ? 1 << 20 : 4096;
    const bool is_side = choice.NextIsSide(length);
    choice.Ended(is_side, length, absl::Microseconds(length / 50 + (is_side ? 10 : 0)));
    ASSERT_FALSE(choice.prefers_side()) << i;
  }
}

TEST(EngineChoiceTest, ATrialOfALengthThatDoesNotComeAgainEnds) {
  EngineChoice choice;
  for (uint32_t i = 0; i < EngineChoice::kTrialWrites; ++i) {
    choice.Ended(choice.NextIsSide(512), 512, absl::Microseconds(80));
  }
  Write(choice, EngineChoice::kMaxRest, absl::Microseconds(200), absl::Microseconds(80));
  EXPECT_TRUE(choice.prefers_side());
}

// Results come late, and in any order.
TEST(EngineChoiceTest, ManyWritesAreInFlight) {
  EngineChoice choice;
  constexpr uint32_t kInFlight = 64;
  bool in_flight[kInFlight] = {};
  for (bool& is_side : in_flight) is_side = choice.NextIsSide(4096);
  for (uint32_t i = 0; i < EngineChoice::kMaxRest; ++i) {
    bool& is_side = in_flight[i * 7 % kInFlight];
    choice.Ended(is_side, 4096, absl::Microseconds(is_side ? 80 : 200));
    is_side = choice.NextIsSide(4096);
  }
  EXPECT_TRUE(choice.prefers_side());
}

}  // namespace
}  // namespace bulkhead::devices::virtio
