#include "vmm/process/device_log.h"

#include <stdlib.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

class DeviceLogTest : public testing::Test {
 protected:
  DeviceLog::Sink Sink() {
    return [this](absl::string_view line) { absl::StrAppend(&passed_on_, line, "\n"); };
  }
  // What was passed on since the last call.
  std::string PassedOn() { return std::exchange(passed_on_, ""); }

 private:
  std::string passed_on_;
};

TEST_F(DeviceLogTest, LinesArePassedOnOnceCompleteAndNamed) {
  DeviceLog log("disk0", Sink());
  log.Append("first li");
  EXPECT_EQ(PassedOn(), "");
  log.Append("ne\nsecond line\nthird");
  EXPECT_EQ(PassedOn(), "disk0| first line\ndisk0| second line\n");
  log.Finish();
  EXPECT_EQ(PassedOn(), "disk0| third\n");
  EXPECT_EQ(log.LastLines(), "first line\nsecond line\nthird\n");
}

TEST_F(DeviceLogTest, LinesHeldBackAreKeptAndPassedOnLater) {
  DeviceLog log("d", Sink());
  log.HoldBack();
  log.Append("early\n");
  EXPECT_EQ(PassedOn(), "");
  EXPECT_EQ(log.LastLines(), "early\n");
  log.PassOnAll();
  log.Append("late\n");
  EXPECT_EQ(PassedOn(), "d| early\nd| late\n");
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
  EXPECT_EQ(PassedOn(), "d| \\x1b[2J\\x07\\x0d\\x00\\x9b\ttab\n");
}

TEST_F(DeviceLogTest, ALongLineIsCut) {
  DeviceLog log("d", Sink());
  log.Append(std::string(1 << 20, 'x'));
  log.Append("\nnext\n");
  EXPECT_EQ(PassedOn(),
            absl::StrCat("d| ", std::string(DeviceLog::kMaxLineBytes, 'x'), "\nd| next\n"));
}

TEST_F(DeviceLogTest, AProcessThatPrintsWithoutEndIsHeldBack) {
  DeviceLog log("d", Sink());
  size_t lines = 0;
  for (int i = 0; i < 5000; ++i) {
    log.Append("again\n");
    if (!PassedOn().empty()) ++lines;
  }
  EXPECT_GE(lines, DeviceLog::kBurstLines);
  EXPECT_LT(lines, 2 * DeviceLog::kBurstLines);
  EXPECT_THAT(log.LastLines(), HasSubstr("again\n"));
}

TEST_F(DeviceLogTest, WhatIsHeldBackIsCountedOnceThereIsRoomAgain) {
  DeviceLog log("d", Sink());
  constexpr int kLines = 2000;
  for (int i = 0; i < kLines; ++i) log.Append("again\n");
  const std::string text = PassedOn();
  const auto passed_on = std::count(text.begin(), text.end(), '\n');
  std::string more;
  while (more.empty()) {  // for a fiftieth of a second
    log.Append("x\n");
    more = PassedOn();
  }
  EXPECT_THAT(more, testing::MatchesRegex("d\\| \\([0-9]+ lines were dropped here\\)\nd\\| x\n"));
  EXPECT_GE(atoi(more.c_str() + 4), kLines - passed_on);
}

}  // namespace
}  // namespace bulkhead::vmm
