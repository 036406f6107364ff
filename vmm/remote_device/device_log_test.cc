#include "vmm/remote_device/device_log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

class DeviceLogTest : public testing::Test {
 protected:
  DeviceLogTest() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) abort();
    read_end_ = UniqueFd(fds[0]);
    write_end_ = UniqueFd(fds[1]);
  }

  // What was passed on since the last call.
  std::string PassedOn() {
    std::string text(64 * 1024, '\0');
    const ssize_t n = read(read_end_.get(), text.data(), text.size());
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return text;
  }

  UniqueFd read_end_;
  UniqueFd write_end_;
};

TEST_F(DeviceLogTest, LinesArePassedOnOnceCompleteAndNamed) {
  DeviceLog log("disk0", write_end_.get());
  log.Append("first li");
  EXPECT_EQ(PassedOn(), "");
  log.Append("ne\nsecond line\nthird");
  EXPECT_EQ(PassedOn(), "disk0| first line\ndisk0| second line\n");
  log.Finish();
  EXPECT_EQ(PassedOn(), "disk0| third\n");
  EXPECT_EQ(log.LastLines(), "first line\nsecond line\nthird\n");
}

TEST_F(DeviceLogTest, LinesHeldBackAreKeptAndPassedOnLater) {
  DeviceLog log("d", write_end_.get());
  log.HoldBack();
  log.Append("early\n");
  EXPECT_EQ(PassedOn(), "");
  EXPECT_EQ(log.LastLines(), "early\n");
  log.PassOnAll();
  log.Append("late\n");
  EXPECT_EQ(PassedOn(), "d| early\nd| late\n");
}

TEST_F(DeviceLogTest, TheLastLinesAreKept) {
  DeviceLog log("d", write_end_.get());
  for (size_t i = 0; i < DeviceLog::kKeptLines + 2; ++i) log.Append(absl::StrCat("line ", i, "\n"));
  EXPECT_THAT(log.LastLines(), testing::StartsWith("line 2\nline 3\n"));
  EXPECT_THAT(log.LastLines(), EndsWith("line 21\n"));
}

TEST_F(DeviceLogTest, ControlCharactersDoNotReachTheTerminal) {
  DeviceLog log("d", write_end_.get());
  log.Append(absl::string_view("\x1b[2J\x07\r\0\x9b\ttab\n", 13));
  EXPECT_EQ(PassedOn(), "d| \\x1b[2J\\x07\\x0d\\x00\\x9b\ttab\n");
}

TEST_F(DeviceLogTest, ALongLineIsCut) {
  DeviceLog log("d", write_end_.get());
  log.Append(std::string(1 << 20, 'x'));
  log.Append("\nnext\n");
  EXPECT_EQ(PassedOn(),
            absl::StrCat("d| ", std::string(DeviceLog::kMaxLineBytes, 'x'), "\nd| next\n"));
}

TEST_F(DeviceLogTest, AReaderWhoDoesNotKeepUpLosesLinesAndIsTold) {
  DeviceLog log("d", write_end_.get());
  // 500 lines of 512 bytes do not fit into a pipe of 64 KiB. Nobody reads meanwhile.
  for (int i = 0; i < 200; ++i) log.Append(std::string(512, 'x') + "\n");
  EXPECT_THAT(PassedOn(), EndsWith("x\n"));
  log.Append("after\n");
  EXPECT_THAT(PassedOn(),
              testing::MatchesRegex("d\\| \\([0-9]+ lines were lost here\\)\nd\\| after\n"));
}

TEST_F(DeviceLogTest, AProcessThatPrintsWithoutEndIsHeldBack) {
  DeviceLog log("d", write_end_.get());
  size_t lines = 0;
  for (int i = 0; i < 5000; ++i) {
    log.Append("again\n");
    if (!PassedOn().empty()) ++lines;
  }
  EXPECT_GE(lines, DeviceLog::kBurstLines);
  EXPECT_LT(lines, 2 * DeviceLog::kBurstLines);
  EXPECT_THAT(log.LastLines(), HasSubstr("again\n"));
}

}  // namespace
}  // namespace bulkhead::vmm
