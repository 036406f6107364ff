#include "vmm/process/device_log.h"

#include <stdlib.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

class DeviceLogTest : public testing::Test {
 protected:
  DeviceLog::Sink Sink() {
    return [this](absl::string_view line) { absl::StrAppend(&forwarded_, line, "\n"); };
  }
  // The lines forwarded since the last call.
  std::string Forwarded() { return std::exchange(forwarded_, ""); }

 private:
  std::string forwarded_;
};

TEST_F(DeviceLogTest, CompleteLinesAreForwardedWithTheDevicesName) {
  DeviceLog log("disk0", Sink());
  log.Append("first li");
  EXPECT_EQ(Forwarded(), "");
  log.Append("ne\nsecond line\nthird");
  EXPECT_EQ(Forwarded(), "disk0| first line\ndisk0| second line\n");
  log.Finish();
  EXPECT_EQ(Forwarded(), "disk0| third\n");
  EXPECT_EQ(log.LastLines(), "first line\nsecond line\nthird\n");
}

TEST_F(DeviceLogTest, BufferedLinesAreForwardedLater) {
  DeviceLog log("d", Sink());
  log.Buffer();
  log.Append("early\n");
  EXPECT_EQ(Forwarded(), "");
  EXPECT_EQ(log.LastLines(), "early\n");
  log.ForwardAll();
  log.Append("late\n");
  EXPECT_EQ(Forwarded(), "d| early\nd| late\n");
}

TEST_F(DeviceLogTest, OfASlowStartLinesAreForwardedBeforeItsEnd) {
  DeviceLog log("d", Sink());
  log.Buffer();
  log.Append("early\n");
  EXPECT_EQ(Forwarded(), "");
  absl::SleepFor(absl::Milliseconds(2100));
  EXPECT_EQ(Forwarded(), "");
  log.Append("waits\n");
  EXPECT_EQ(Forwarded(), "d| early\nd| waits\n");
  log.ForwardAll();
  EXPECT_EQ(Forwarded(), "") << "each once";
}

TEST_F(DeviceLogTest, TheLastLinesAreKept) {
  DeviceLog log("d", Sink());
  for (size_t i = 0; i < DeviceLog::kKeptLines + 2; ++i) log.Append(absl::StrCat("line ", i, "\n"));
  EXPECT_THAT(log.LastLines(), testing::StartsWith("line 2\nline 3\n"));
  EXPECT_THAT(log.LastLines(), EndsWith("line 21\n"));
}

TEST_F(DeviceLogTest, ControlCharactersDoNotReachTheTerminal) {
  DeviceLog log("d", Sink());
  log.Append(absl::string_view("\x1b[2J\x07\r\0\x9b\ttab\n", 13));
  EXPECT_EQ(Forwarded(), "d| \\x1b[2J\\x07\\x0d\\x00\\x9b\ttab\n");
}

TEST_F(DeviceLogTest, ALongLineIsCut) {
  DeviceLog log("d", Sink());
  log.Append(std::string(1 << 20, 'x'));
  log.Append("\nnext\n");
  EXPECT_EQ(Forwarded(),
            absl::StrCat("d| ", std::string(DeviceLog::kMaxLineBytes, 'x'), "\nd| next\n"));
}

TEST_F(DeviceLogTest, LinesOfAProcessThatPrintsWithoutEndAreDropped) {
  DeviceLog log("d", Sink());
  size_t lines = 0;
  for (int i = 0; i < 5000; ++i) {
    log.Append("again\n");
    if (!Forwarded().empty()) ++lines;
  }
  EXPECT_GE(lines, DeviceLog::kBurstLines);
  EXPECT_LT(lines, 2 * DeviceLog::kBurstLines);
  EXPECT_THAT(log.LastLines(), HasSubstr("again\n"));
}

TEST_F(DeviceLogTest, DroppedLinesAreCountedInTheNextForwardedLine) {
  DeviceLog log("d", Sink());
  constexpr int kLines = 2000;
  for (int i = 0; i < kLines; ++i) log.Append("again\n");
  const std::string text = Forwarded();
  const auto passed_on = std::count(text.begin(), text.end(), '\n');
  std::string more;
  while (more.empty()) {  // for about 20 ms
    log.Append("x\n");
    more = Forwarded();
  }
  EXPECT_THAT(more, testing::MatchesRegex("d\\| \\([0-9]+ lines were dropped here\\)\nd\\| x\n"));
  EXPECT_GE(atoi(more.c_str() + 4), kLines - passed_on);
}

}  // namespace
}  // namespace bulkhead::vmm
