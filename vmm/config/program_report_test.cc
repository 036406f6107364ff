#include "vmm/config/program_report.h"

#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

std::shared_ptr<ProgramReport> Report() { return *ProgramReport::Create("/bin/true", true); }

TEST(ProgramReportTest, BeforeTheFirstStartNothingIsKnown) {
  const auto report = Report();
  EXPECT_EQ(report->path(), "/bin/true");
  const ProgramReport::Figures figures = report->Read();
  EXPECT_EQ(figures.pid, 0);
  EXPECT_EQ(figures.starts, 0u);
  EXPECT_EQ(figures.age, absl::ZeroDuration());
}

TEST(ProgramReportTest, WhatAnotherProcessReportsIsSeen) {
  const auto report = Report();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    report->OnStart(17);
    report->OnStop(true);
    report->lost().from_device += 2;
    report->lost().to_device += 3;
    _exit(0);
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const ProgramReport::Figures figures = report->Read();
  EXPECT_EQ(figures.pid, 17);
  EXPECT_EQ(figures.starts, 1u);
  EXPECT_TRUE(figures.is_stopped);
  EXPECT_EQ(figures.lost_from_device, 2u);
  EXPECT_EQ(figures.lost_to_device, 3u);
}

TEST(ProgramReportTest, AStopEndsWithTheProgram) {
  const auto report = Report();
  report->OnStart(17);
  report->OnStop(true);
  EXPECT_TRUE(report->Read().is_stopped);
  report->OnStop(false);
  EXPECT_FALSE(report->Read().is_stopped);
  report->OnStop(true);
  report->OnEnd();
  EXPECT_FALSE(report->Read().is_stopped);
  report->OnStart(18);
  EXPECT_FALSE(report->Read().is_stopped);
}

TEST(ProgramReportTest, ItsAgeIsThatOfItsState) {
  const auto report = Report();
  constexpr absl::Duration kWhile = absl::Milliseconds(20);
  report->OnEnd();  // of none
  EXPECT_EQ(report->Read().age, absl::ZeroDuration());
  report->OnStart(17);
  absl::SleepFor(kWhile);
  const absl::Duration lives = report->Read().age;
  EXPECT_GE(lives, kWhile);
  report->OnStop(true);
  EXPECT_LT(report->Read().age, lives);
  report->OnEnd();
  EXPECT_EQ(report->Read().pid, 0);
  absl::SleepFor(kWhile);
  const absl::Duration dead = report->Read().age;
  EXPECT_GE(dead, kWhile);
  report->OnEnd();  // the same one
  EXPECT_GE(report->Read().age, dead);
  report->OnStart(18);
  report->OnStart(-5);  // a lie
  EXPECT_EQ(report->Read().pid, 0);
  EXPECT_EQ(report->Read().starts, 3u);
}

}  // namespace
}  // namespace bulkhead::vmm
