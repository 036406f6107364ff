#include "vmm/console_log/console_log.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "proto/console_stream.h"
#include "vmm/config/console_log_file.h"
#include "vmm/console/console_hub.h"
#include "vmm/console_log/console_log_process.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {
namespace {

class ConsoleLogTest : public testing::Test {
 protected:
  ~ConsoleLogTest() override { std::filesystem::remove_all(folder_); }

  ConsoleLogFile File(uint64_t size_bytes, uint32_t keep) const {
    ConsoleLogFile file = *FindConsoleLog(Path(), /*make=*/true);
    file.size_bytes = size_bytes;
    file.keep = keep;
    return file;
  }
  std::string Path(const std::string& suffix = "") const {
    return absl::StrCat(folder_, "/log", suffix);
  }
  std::string Text(const std::string& suffix = "") const { return ReadFile(Path(suffix)); }
  bool Exists(const std::string& suffix) const { return std::filesystem::exists(Path(suffix)); }

  const std::string folder_ = MakeTempFolder();
};

TEST_F(ConsoleLogTest, AFullFileIsRenamedAfterItsLastWholeLine) {
  RotatingFile log(File(10, 2));
  log.Append("one\ntwo\nthree\n");
  EXPECT_EQ(Text(), "three\n");
  EXPECT_EQ(Text(".1"), "one\ntwo\n");
  log.Append("four\nfive\n");
  log.Append("six\n");
  EXPECT_EQ(Text(), "six\n");
  EXPECT_EQ(Text(".1"), "four\nfive\n");
  EXPECT_EQ(Text(".2"), "three\n");
  log.Append("seven eight nine ten\n");
  EXPECT_EQ(Text(".2"), "seven eigh") << "a line that is longer than a file is cut";
  EXPECT_EQ(Text(".1"), "t nine ten");
  EXPECT_EQ(Text(), "\n");
  EXPECT_FALSE(Exists(".3"));
  struct stat info = {};
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(ConsoleLogTest, WithoutOthersTheFileIsEmptied) {
  RotatingFile log(File(10, 0));
  log.Append("one\ntwo\nthree\n");
  EXPECT_EQ(Text(), "three\n");
  EXPECT_FALSE(Exists(".1"));
}

TEST_F(ConsoleLogTest, TheNextVmGoesOnWithTheFile) {
  RotatingFile(File(100, 1)).Append("first\n");
  RotatingFile(File(100, 1)).Append("second\n");
  EXPECT_EQ(Text(), "first\nsecond\n");
}

TEST_F(ConsoleLogTest, WhatCannotBeWrittenIsCountedInTheFile) {
  signal(SIGXFSZ, SIG_IGN);
  RotatingFile log(File(1000, 1));
  log.Append("12345");
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  rlimit full = limit;
  full.rlim_cur = 8;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  log.Append("678abc");
  log.Append("def");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  log.Append("ghi\n");
  EXPECT_EQ(Text(), "12345678\n[vmm: 6 bytes of the console are missing here]\nghi\n");
}

TEST_F(ConsoleLogTest, AFolderInWhichNothingCanBeRenamedLosesNoOldOutput) {
  RotatingFile log(File(10, 1));
  log.Append("one\n");
  std::filesystem::create_directory(Path(".1"));
  log.Append("two two two\nthree\n");
  EXPECT_EQ(Text(), "one\n");
  std::filesystem::remove(Path(".1"));
  log.Append("four\n");
  EXPECT_TRUE(absl::StrContains(Text() + Text(".1"), "bytes of the console are missing here"));
  EXPECT_TRUE(absl::StrContains(Text() + Text(".1"), "four\n"));
}

TEST_F(ConsoleLogTest, OnlyARegularFileOfThisUserIsOne) {
  ASSERT_EQ(symlink("/dev/null", Path().c_str()), 0);
  EXPECT_FALSE(FindConsoleLog(Path(), true).ok());
  ASSERT_EQ(unlink(Path().c_str()), 0);
  ASSERT_EQ(mkfifo(Path().c_str(), 0600), 0);
  EXPECT_FALSE(FindConsoleLog(Path(), true).ok());
  ASSERT_EQ(unlink(Path().c_str()), 0);
  EXPECT_FALSE(FindConsoleLog(folder_ + "/none/log", true).ok());
  EXPECT_FALSE(FindConsoleLog(folder_ + "/", true).ok());
  EXPECT_TRUE(FindConsoleLog(Path(), /*make=*/false).ok());
  EXPECT_FALSE(Exists("")) << "a check makes nothing";
}

// As in a VM: a device's socket, the hub, and the side process, confined.
TEST_F(ConsoleLogTest, WhatTheGuestPrintsIsInTheFileAtTheEnd) {
  std::string printed;
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&printed, "line ", i, "\n");
  std::vector<SideProcess> processes;
  const std::unique_ptr<ConsoleLog> log =
      *ConsoleLog::Create(File(100'000, 9), /*confined=*/true, processes);
  const std::unique_ptr<SideProcesses> started = *SideProcesses::Start(std::move(processes));
  const std::unique_ptr<ConsoleHub> hub = *ConsoleHub::Create({});
  log->Attach(*hub);
  const int device = hub->Connect();
  constexpr size_t kPacketBytes = 1000;
  ConsolePacketHeader header = {.position = 0, .acknowledged = 0};
  std::string packet(sizeof(header), 0);
  ASSERT_GT(send(device, packet.data(), packet.size(), 0), 0);
  for (size_t at = 0; at < printed.size(); at += kPacketBytes) {
    header.position = at;
    packet.assign(reinterpret_cast<const char*>(&header), sizeof(header));
    packet += printed.substr(at, kPacketBytes);
    ASSERT_GT(send(device, packet.data(), packet.size(), 0), 0);
    absl::SleepFor(absl::Milliseconds(1));  // a guest, not a flood: nothing is to be lost
  }
  hub->Drain(absl::Seconds(30));
  log->Finish(absl::Seconds(30));
  std::string logged;
  for (int age = 9; age >= 1; --age) {
    if (Exists(absl::StrCat(".", age))) logged += Text(absl::StrCat(".", age));
  }
  logged += Text();
  EXPECT_EQ(logged, printed);
  EXPECT_TRUE(Exists(".2"));
}

}  // namespace
}  // namespace bulkhead::vmm
