#include "base/crash_point.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// How often a process reaches the point before it dies there; -1: it does not die.
int TimesBeforeDeath(const std::string& spec, uint64_t generation = 1) {
  int progress[2];
  if (pipe(progress) != 0) return -2;
  const pid_t child = fork();
  if (child == 0) {
    if (!ArmCrashPoint(spec, generation).ok()) _exit(1);
    for (int i = 0; i < 5; ++i) {
      CRASH_POINT("second");
      CRASH_POINT("first");
      if (write(progress[1], "x", 1) != 1) _exit(1);
    }
    _exit(0);
  }
  close(progress[1]);
  int times = 0;
  for (char byte; read(progress[0], &byte, 1) == 1;) ++times;
  close(progress[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 ? -1 : -2;
  return WTERMSIG(status) == SIGKILL ? times : -2;
}

TEST(CrashPointTest, ListsTheNamesOfTheProgram) {
  EXPECT_THAT(CrashPointNames(), ElementsAre("first", "second"));
}

TEST(CrashPointTest, NothingHappensUnlessArmed) { EXPECT_EQ(TimesBeforeDeath(""), -1); }

TEST(CrashPointTest, KillsAtTheTimeThatWasAsked) {
  EXPECT_EQ(TimesBeforeDeath("first"), 0);
  EXPECT_EQ(TimesBeforeDeath("second:3"), 2);
  EXPECT_EQ(TimesBeforeDeath("second:6"), -1);
}

TEST(CrashPointTest, KillsTheGenerationThatWasAsked) {
  EXPECT_EQ(TimesBeforeDeath("first:2:7", 7), 1);
  EXPECT_EQ(TimesBeforeDeath("first:2:7", 8), -1);
}

TEST(CrashPointTest, OfSeveralTheFirstOfTheGenerationCounts) {
  const std::string spec = "first:2:7,second:4:8,first:3";
  EXPECT_EQ(TimesBeforeDeath(spec, 7), 1);
  EXPECT_EQ(TimesBeforeDeath(spec, 8), 3);
  EXPECT_EQ(TimesBeforeDeath(spec, 9), 2);
}

TEST(CrashPointTest, ExplainsAMistake) {
  for (const char* spec :
       {"third", "first,", "first,third", "first:0", "first:x", "first:1:2:3", ":", "first:"}) {
    const absl::Status status = ArmCrashPoint(spec, 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_THAT(std::string(status.message()), HasSubstr("NAME one of first, second")) << spec;
  }
}

}  // namespace
}  // namespace bulkhead
