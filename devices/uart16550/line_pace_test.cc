#include "devices/uart16550/line_pace.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr uint8_t kThr = 0, kIer = 1, kIir = 2, kMcr = 4, kScr = 7;
constexpr uint8_t kIerReceive = 1, kIerTransmit = 2, kRts = 2;

class LinePaceTest : public ::testing::Test {
 protected:
  void After(absl::Duration duration) { now_ += duration; }
  // As the device does.
  void Write(uint8_t offset, uint8_t value) {
    uart_.Write(offset, value);
    if (pace_.IsNeeded(uart_)) pace_.OnAccess(uart_, now_);
  }
  uint8_t Read(uint8_t offset) {
    const uint8_t value = uart_.Read(offset);
    if (pace_.IsNeeded(uart_)) pace_.OnAccess(uart_, now_);
    return value;
  }
  // A handler's, each byte taking that long. How many bytes it has sent when the line falls quiet.
  uint32_t Burst(absl::Duration byte) {
    Write(kIer, kIerTransmit);
    for (uint32_t i = 1; i <= 10'000; ++i) {
      Write(kThr, 'x');
      if (uart_.is_quiet()) return i;
      After(byte);
    }
    return 0;
  }
  // How long until it is quiet no more, if the guest does nothing.
  absl::Duration TimeToEndOfQuiet() {
    const absl::Time start = now_;
    while (uart_.is_quiet()) {
      EXPECT_GT(pace_.due(), now_ - absl::Nanoseconds(1));
      EXPECT_LT(pace_.due(), now_ + absl::Seconds(1));
      if (pace_.due() > now_ + absl::Seconds(1)) break;
      now_ = pace_.due();
      pace_.OnTime(uart_, now_);
    }
    return now_ - start;
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  UartRegisters uart_;
  LinePace pace_;
};

TEST_F(LinePaceTest, WithoutABurstThereIsNothingToWaitFor) {
  EXPECT_FALSE(pace_.IsNeeded(uart_));
  Write(kIer, kIerTransmit);
  Write(kThr, 'x');
  EXPECT_EQ(pace_.due(), absl::InfiniteFuture());
}

TEST_F(LinePaceTest, ABurstTakesTwoMillisecondsOrFourFifos) {
  EXPECT_EQ(Burst(absl::Microseconds(10)), 201u);
  EXPECT_FALSE(uart_.interrupt()) << "the handler ends";
  TimeToEndOfQuiet();
  EXPECT_EQ(Burst(absl::Microseconds(500)), 64u);
  TimeToEndOfQuiet();
  EXPECT_EQ(Burst(absl::Nanoseconds(1)), UartRegisters::kMaxBurstBytes);
}

TEST_F(LinePaceTest, ABurstBeginsWithItsHandler) {
  Write(kIer, kIerTransmit);
  Write(kThr, 'x');
  EXPECT_EQ(Read(kIir), 2);
  EXPECT_EQ(Read(kIir), 1) << "the handler ends";
  After(absl::Hours(1));
  EXPECT_EQ(Burst(absl::Microseconds(10)), 201u);
  EXPECT_EQ(TimeToEndOfQuiet(), absl::Microseconds(250));
}

TEST_F(LinePaceTest, QuietTakesAnEighthOfTheBurst) {
  Burst(absl::Microseconds(10));
  EXPECT_EQ(TimeToEndOfQuiet(), absl::Microseconds(250));
  EXPECT_TRUE(uart_.interrupt());
  After(absl::Seconds(10));
  Burst(absl::Microseconds(500));
  EXPECT_EQ(TimeToEndOfQuiet(), absl::Microseconds(63 * 500) / 8) << "not counting the pause";
}

TEST_F(LinePaceTest, QuietIsNeitherTooShortNorTooLong) {
  Burst(absl::ZeroDuration());
  EXPECT_EQ(TimeToEndOfQuiet(), LinePace::kMinQuiet);
  Burst(absl::Seconds(1));
  EXPECT_EQ(TimeToEndOfQuiet(), LinePace::kMaxQuiet);
}

TEST_F(LinePaceTest, QuietCountsFromTheLastAccessButNotForEver) {
  const absl::Duration quiet = absl::Microseconds(250);
  Burst(absl::Microseconds(10));
  After(absl::Microseconds(200));
  Read(kIir);
  EXPECT_EQ(TimeToEndOfQuiet(), quiet);
  Burst(absl::Microseconds(10));
  const absl::Time start = now_;
  for (int i = 0; i < 10'000 && uart_.is_quiet(); ++i) {
    After(absl::Microseconds(200));
    pace_.OnTime(uart_, now_);
    Read(kScr);
  }
  EXPECT_FALSE(uart_.is_quiet());
  EXPECT_GE(now_ - start, LinePace::kMaxProlonged);
}

TEST_F(LinePaceTest, ADriverThatEnablesItsInterruptGetsInputWithoutRts) {
  Write(kIer, kIerReceive);
  After(absl::Milliseconds(19));
  pace_.OnTime(uart_, now_);
  Read(kScr);
  EXPECT_EQ(uart_.ReceiveRoom(), 0u);
  EXPECT_EQ(pace_.due(), now_ + LinePace::kAssumeRtsAfter);
  now_ = pace_.due();
  pace_.OnTime(uart_, now_);
  EXPECT_EQ(uart_.ReceiveRoom(), 1u);
  EXPECT_EQ(pace_.due(), absl::InfiniteFuture());
}

TEST_F(LinePaceTest, ADriverThatAssertsRtsLaterIsNotAssumedTo) {
  Write(kIer, kIerReceive);
  After(absl::Milliseconds(5));
  Write(kMcr, kRts);
  EXPECT_EQ(pace_.due(), absl::InfiniteFuture());
  Write(kMcr, 0);
  After(absl::Seconds(1));
  pace_.OnTime(uart_, now_);
  EXPECT_EQ(uart_.ReceiveRoom(), 0u);
}

}  // namespace
}  // namespace bulkhead::devices::uart16550
