#include "vmm/vcpu/thread_times.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

// User 250 ticks, system 50, guest 200.
constexpr char kFields[] =
    "S 1 2 3 0 -1 64 5 6 7 8 250 50 0 0 20 0 9 0 1234 4096 300 18446744073709551615 1 1 0 0 0 0 0 "
    "16781312 65536 0 0 0 -1 2 0 0 0 200 0 0 0 0 0 0 0 0 0\n";

TEST(ThreadTimesTest, GuestTimeIsPartOfTheProcessorTime) {
  const auto times = ParseThreadTimes(absl::StrCat("4711 (vcpu0) ", kFields), 100);
  ASSERT_TRUE(times.has_value());
  EXPECT_EQ(times->processor, absl::Seconds(3));
  EXPECT_EQ(times->guest, absl::Seconds(2));
}

TEST(ThreadTimesTest, ANameMayHaveParenthesesAndSpaces) {
  const auto times = ParseThreadTimes(absl::StrCat("4711 (a) S 1 (b) ", kFields), 100);
  ASSERT_TRUE(times.has_value());
  EXPECT_EQ(times->guest, absl::Seconds(2));
}

TEST(ThreadTimesTest, WhatIsNoStatHasNoTimes) {
  EXPECT_FALSE(ParseThreadTimes("", 100).has_value());
  EXPECT_FALSE(ParseThreadTimes("4711 (vcpu0) S 1 2", 100).has_value());
  EXPECT_FALSE(ParseThreadTimes(absl::StrCat("4711 (vcpu0) ", kFields), 0).has_value());
  std::string wrong = absl::StrCat("4711 (vcpu0) ", kFields);
  wrong.replace(wrong.find("250"), 3, "x50");
  EXPECT_FALSE(ParseThreadTimes(wrong, 100).has_value());
}

TEST(ThreadTimesTest, AThreadOfThisProcessHasTimesUntilItEnds) {
  const auto times = ReadThreadTimes(getpid());
  ASSERT_TRUE(times.has_value());
  EXPECT_GE(times->processor, absl::ZeroDuration());
  EXPECT_EQ(times->guest, absl::ZeroDuration());
  EXPECT_FALSE(ReadThreadTimes(0).has_value());
}

}  // namespace
}  // namespace bulkhead::vmm
