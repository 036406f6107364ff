// A guest that reports through pvpanic that it has crashed: what the vmm does about it, and that
// each report is made once, whenever the device's process dies.

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

class PvpanicTest : public testing::Test {
 protected:
  void Start(const std::string& orders, const std::vector<std::string>& more) {
    const std::string name = absl::StrCat("pvpanic-", getpid());
    std::vector<std::string> flags = {
        "--name=" + name, "--memory=32M", "--console=stdio",
        absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
        absl::StrCat("--cmdline=run=panic ", orders)};
    flags.insert(flags.end(), more.begin(), more.end());
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
  }

  static std::string Vmctl(const std::string& arguments) {
    return absl::StrCat(DataFile("tools/vmctl/vmctl"), " --vm=pvpanic-", getpid(), " ", arguments);
  }
  std::string Exit() {
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    return exit.ok() ? exit->ToString() : exit.status().ToString();
  }
  std::vector<v1::GuestReport> Reports() {
    std::vector<v1::GuestReport> reports;
    const absl::StatusOr<std::vector<v1::Event>> events = client_->PastEvents();
    if (!events.ok()) return reports;  // it does not serve yet
    for (const v1::Event& event : *events) {
      if (event.has_guest_report()) reports.push_back(event.guest_report());
    }
    return reports;
  }
  // Once there are so many, and still after a while.
  std::vector<v1::GuestReport> AwaitReports(size_t count) {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (Reports().size() < count && absl::Now() < deadline)
      absl::SleepFor(absl::Milliseconds(20));
    absl::SleepFor(absl::Milliseconds(100));
    return Reports();
  }

  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
};

TEST_F(PvpanicTest, ByDefaultTheVmEndsWithAnExitCodeOfItsOwn) {
  Start("", {"--pvpanic"});
  EXPECT_EQ(Exit(), "exit code 7") << vm_->log();
  EXPECT_THAT(vm_->log(), HasSubstr("the guest's kernel has crashed, its crash kernel takes over"));
  EXPECT_THAT(vm_->log(), HasSubstr("the VM ended: guest panic: the guest's kernel has crashed"));
}

TEST_F(PvpanicTest, ThatCountsAlsoIfTheGuestResetsItselfAtOnce) {
  for (int i = 0; i < 3; ++i) {
    Start("resets=1", {"--pvpanic"});
    EXPECT_EQ(Exit(), "exit code 7") << vm_->log();
  }
}

TEST_F(PvpanicTest, WithReportTheGuestRunsOn) {
  Start("", {"--pvpanic", "--on-panic=report"});
  const std::vector<v1::GuestReport> reports = AwaitReports(2);
  ASSERT_EQ(reports.size(), 2u) << vm_->log();
  EXPECT_EQ(reports[0].kind(), v1::GuestReport::CRASH_LOADED);
  EXPECT_EQ(reports[1].kind(), v1::GuestReport::PANICKED);
  EXPECT_EQ(reports[1].device(), "pvpanic");
  EXPECT_TRUE(vm_->WaitForOutput("runs on 5\r\n", kTimeout).ok());
  EXPECT_EQ(client_->GetStatus()->state(), v1::VmStatus::RUNNING);
  EXPECT_THAT(
      OutputOf(absl::StrCat(DataFile("tools/vmctl/vmctl"), " --vm=pvpanic-", getpid(), " events")),
      HasSubstr("pvpanic    the guest's kernel has crashed\n"));
}

TEST_F(PvpanicTest, WithPauseAClientResumesIt) {
  Start("", {"--pvpanic", "--on-panic=pause"});
  ASSERT_EQ(AwaitReports(2).size(), 2u) << vm_->log();
  const absl::StatusOr<v1::VmStatus> status = client_->GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->state(), v1::VmStatus::PAUSED);
  EXPECT_EQ(status->pause_reason(), "the guest's kernel has crashed");
  EXPECT_TRUE(client_->Resume().ok());
  EXPECT_TRUE(vm_->WaitForOutput("runs on 5\r\n", kTimeout).ok());
}

TEST_F(PvpanicTest, WithRebootItBootsAgain) {
  Start("", {"--pvpanic", "--on-panic=reboot"});
  EXPECT_TRUE(vm_->WaitForOutput("boots\r\n", kTimeout).ok());
  EXPECT_TRUE(vm_->WaitForOutput("boots\r\n", kTimeout).ok()) << vm_->log();
  EXPECT_GE(client_->GetStatus()->reboots(), 1u);
}

TEST_F(PvpanicTest, AFloodOfReportsIsHeardSlowlyAndTheVmStaysUsable) {
  Start("panics=20000", {"--pvpanic", "--on-panic=report"});
  EXPECT_TRUE(vm_->WaitForOutput("runs on 1\r\n", kTimeout).ok()) << vm_->log();
  const std::vector<v1::GuestReport> reports = AwaitReports(8);
  EXPECT_GE(reports.size(), 8u);
  EXPECT_LE(reports.size(), 60u);
  EXPECT_EQ(client_->GetDevice("pvpanic")->state(), v1::Device::RUNNING);
  EXPECT_TRUE(client_->Stop().ok());
  EXPECT_EQ(Exit(), "exit code 6");
}

std::vector<std::string> CrashPoints() {
  std::vector<std::string> points;
  const std::string list =
      OutputOf(absl::StrCat(DataFile("devices/pvpanic/pvpanic"), " --crash_point=list"));
  for (const absl::string_view point : absl::StrSplit(list, '\n', absl::SkipEmpty())) {
    // It has no doorbells, and nothing to poll.
    if (!absl::StartsWith(point, "after_doorbell_") && point != "after_work_polled") {
      points.emplace_back(point);
    }
  }
  return points;
}

class PvpanicCrashTest : public PvpanicTest, public testing::WithParamInterface<std::string> {};

// The first process is killed. The second one dies at the point, be it in its attachment or later.
TEST_P(PvpanicCrashTest, EachReportIsMadeOnce) {
  const std::string config =
      WriteTempFile("crash.textproto",
                    absl::StrCat("on_panic: PANIC_REPORT devices {\n  name: \"pvpanic\"",
                                 " binary: \"pvpanic\" resources { name: \"vm\" vm_link {} }\n",
                                 "  arg: \"--crash_point=", GetParam(), ":1:2\"\n",
                                 "  restart { max_crashes: -1 min_backoff: \"1ms\" }\n}\n"));
  Start("by_key=1 panics=3", {"--config=" + config});
  ASSERT_TRUE(vm_->WaitForOutput("boots\r\n", kTimeout).ok()) << vm_->log();
  EXPECT_TRUE(client_->KillProcessOf("pvpanic"));
  EXPECT_TRUE(vm_->Type("k").ok());
  EXPECT_TRUE(vm_->WaitForOutput("runs on 3\r\n", kTimeout).ok()) << vm_->log();
  AwaitReports(4);
  OutputOf(Vmctl("device reset pvpanic"));
  std::vector<int> kinds;
  for (const v1::GuestReport& report : AwaitReports(4)) kinds.push_back(report.kind());
  EXPECT_THAT(kinds, ElementsAre(v1::GuestReport::CRASH_LOADED, v1::GuestReport::PANICKED,
                                 v1::GuestReport::PANICKED, v1::GuestReport::PANICKED))
      << vm_->log();
  EXPECT_TRUE(client_->AwaitGeneration("pvpanic", 3)) << "it was not reached";
  EXPECT_TRUE(client_->Stop().ok());
  EXPECT_EQ(Exit(), "exit code 6");
}

INSTANTIATE_TEST_SUITE_P(All, PvpanicCrashTest, testing::ValuesIn(CrashPoints()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bulkhead::integration
