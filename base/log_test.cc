#include "base/log.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/pipe.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// Standard error is a pipe meanwhile, blocking, as inherited.
class LogTest : public testing::Test {
 protected:
  LogTest() : saved_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
    Pipe pipe = *CreatePipe();
    read_end_ = std::move(pipe.read_end);
    EXPECT_EQ(fcntl(read_end_.get(), F_SETFL, O_NONBLOCK), 0);
    EXPECT_EQ(dup2(pipe.write_end.get(), STDERR_FILENO), STDERR_FILENO);
    InitLog("test", LogLevel::kInfo);
  }
  ~LogTest() override { dup2(saved_.get(), STDERR_FILENO); }

  // What came since the last call.
  std::string Read() {
    std::string text(1 << 20, '\0');
    const ssize_t n = read(read_end_.get(), text.data(), text.size());
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return text;
  }

 private:
  const UniqueFd saved_;
  UniqueFd read_end_;
};

TEST_F(LogTest, ALineNamesTheProcessAndTheLevel) {
  LogDebug("not shown");
  LogInfo("text");
  LogWarning("text");
  LogError("text");
  EXPECT_EQ(Read(), "test: text\ntest: warning: text\ntest: error: text\n");
}

TEST_F(LogTest, InTheJournalALineBeginsWithItsPriority) {
  struct stat info;
  ASSERT_EQ(fstat(STDERR_FILENO, &info), 0);
  setenv("JOURNAL_STREAM", absl::StrCat(info.st_dev, ":", info.st_ino + 1).c_str(), 1);
  EXPECT_FALSE(MarkLogForJournal()) << "another file is the journal";
  LogInfo("text");
  EXPECT_EQ(Read(), "test: text\n");
  setenv("JOURNAL_STREAM", absl::StrCat(info.st_dev, ":", info.st_ino).c_str(), 1);
  EXPECT_TRUE(MarkLogForJournal());
  LogInfo("text");
  LogWarning("first\nsecond");
  LogError("text");
  LogQuoted(LogLevel::kWarning, "disk0| virtio_blk: warning: text");
  EXPECT_EQ(Read(),
            "<6>test: text\n<4>test: warning: first\n<4>test: second\n<3>test: error: text\n"
            "<4>test: disk0| virtio_blk: warning: text\n");
  unsetenv("JOURNAL_STREAM");
  EXPECT_FALSE(MarkLogForJournal());
}

// No text, from whomever, puts a line into the log that is not marked as this process's.
TEST_F(LogTest, EveryLineOfATextNamesTheProcess) {
  LogError("it ended; its last lines:\ndisk0| one\ndisk0| two\n");
  EXPECT_EQ(Read(), "test: error: it ended; its last lines:\ntest: disk0| one\ntest: disk0| two\n");
}

TEST_F(LogTest, AStandardErrorThatTakesNoMoreLosesLinesAndSaysSo) {
  const std::string line(1000, 'x');
  for (int i = 0; i < 1000; ++i) LogInfo(line);  // a pipe holds 64 KiB
  EXPECT_NE(Read(), "");
  LogInfo("after");
  EXPECT_THAT(Read(), MatchesRegex("test: \\([0-9]+ lines were dropped here\\)\ntest: after\n"));
}

// The last ones: what they set stays.
TEST_F(LogTest, DatedLinesSayWhenAndForWhom) {
  DateLog("web");
  LogWarning("one\ntwo");
  const std::string head =
      "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{3}Z test\\[web\\]: ";
  EXPECT_THAT(Read(), MatchesRegex(head + "warning: one\n" + head + "two\n"));
}

TEST_F(LogTest, QueuedLinesAreWrittenInOrderAndNobodyWaitsForAReader) {
  QueueLog();
  LogInfo("first");
  const std::string line(1000, 'x');
  for (int i = 0; i < 1000; ++i) LogInfo(line);  // more than pipe and queue hold
  FlushLog(absl::Milliseconds(1));
  std::string text = Read();
  EXPECT_THAT(text.substr(0, 100), HasSubstr("first\n"));
  std::thread reader([&] {
    while (text.find("last\n") == std::string::npos) text += Read();
  });
  FlushLog(absl::Seconds(60));
  LogInfo("last");
  reader.join();
  EXPECT_THAT(text.substr(text.size() - 200),
              ContainsRegex("\\([0-9]+ lines were dropped here\\)\n[^\n]*last\n$"));
}

}  // namespace
}  // namespace bulkhead
