// The watchdog i6300esb under a guest that reloads it until it is told to hang: what the vmm does
// when it expires, that it does so once, whenever its process dies, and that nothing but the guest
// makes it expire.

#include <signal.h>
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

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

class WatchdogTest : public testing::Test {
 protected:
  void Start(const std::string& orders, const std::vector<std::string>& more) {
    const std::string name = absl::StrCat("watchdog-", getpid());
    std::vector<std::string> flags = {
        "--name=" + name, "--memory=32M", "--console=stdio",
        absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
        absl::StrCat("--cmdline=run=watchdog ", orders)};
    flags.insert(flags.end(), more.begin(), more.end());
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
    ASSERT_TRUE(vm_->WaitForOutput("reloads 0\r\n", kTimeout).ok()) << vm_->log();
  }
  // It reloads on.
  void AwaitReloads(int lines) {
    for (int i = 0; i < lines; ++i) {
      ASSERT_TRUE(vm_->WaitForOutput("reloads ", kTimeout).ok()) << vm_->log();
    }
  }
  void Hang() {
    ASSERT_TRUE(vm_->Type("k").ok());
    ASSERT_TRUE(vm_->WaitForOutput("hangs\r\n", kTimeout).ok()) << vm_->log();
  }

  std::string Exit() {
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    return exit.ok() ? exit->ToString() : exit.status().ToString();
  }
  size_t Expirations() {
    size_t expirations = 0;
    const absl::StatusOr<std::vector<v1::Event>> events = client_->PastEvents();
    if (!events.ok()) return 0;  // it does not serve yet
    for (const v1::Event& event : *events) {
      expirations += event.guest_report().kind() == v1::GuestReport::WATCHDOG_EXPIRED;
    }
    return expirations;
  }
  void AwaitExpiration() {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (Expirations() == 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
  }

  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
};

TEST_F(WatchdogTest, WithExitTheVmEndsWithAnExitCodeOfItsOwn) {
  Start("", {"--watchdog=exit"});
  AwaitReloads(3);
  Hang();
  EXPECT_EQ(Exit(), "exit code 8") << vm_->log();
  EXPECT_THAT(vm_->log(), HasSubstr("the VM ended: watchdog: the guest's watchdog has expired"));
}

TEST_F(WatchdogTest, ByDefaultTheGuestBootsAgainAndKnowsWhy) {
  Start("", {"--watchdog"});
  Hang();
  EXPECT_TRUE(vm_->WaitForOutput("boots after an expiration\r\n", kTimeout).ok()) << vm_->log();
  AwaitReloads(3);
  EXPECT_EQ(client_->GetStatus()->reboots(), 1u);
  EXPECT_EQ(Expirations(), 1u);
}

TEST_F(WatchdogTest, WithPauseAClientResumesIt) {
  Start("", {"--watchdog=pause"});
  Hang();
  AwaitExpiration();
  const absl::Time deadline = absl::Now() + kTimeout;
  while (client_->GetStatus()->state() != v1::VmStatus::PAUSED && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(client_->GetStatus()->pause_reason(), "the guest's watchdog has expired");
  EXPECT_TRUE(client_->Resume().ok());
}

TEST_F(WatchdogTest, APausedVmDoesNotExpire) {
  Start("ticks=400", {"--watchdog=report"});
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(client_->Pause().ok());
    absl::SleepFor(absl::Seconds(2));
    ASSERT_TRUE(client_->Resume().ok());
    AwaitReloads(2);
  }
  EXPECT_EQ(Expirations(), 0u);
  Hang();
  AwaitExpiration();
  EXPECT_EQ(Expirations(), 1u);
}

TEST_F(WatchdogTest, AVmmThatDoesNotRunDoesNotExpireIt) {
  Start("ticks=400", {"--watchdog=report"});
  ASSERT_TRUE(vm_->Signal(SIGSTOP).ok());
  absl::SleepFor(absl::Seconds(5));
  ASSERT_TRUE(vm_->Signal(SIGCONT).ok());
  AwaitReloads(3);
  EXPECT_EQ(Expirations(), 0u);
}

std::string Config(const std::string& argument, const std::string& backoff) {
  return WriteTempFile("watchdog.textproto",
                       absl::StrCat("on_watchdog: WATCHDOG_REPORT devices {\n  name: \"i6300esb\"",
                                    " binary: \"i6300esb\" resources { name: \"vm\" vm_link {} }\n",
                                    argument, "  restart { max_crashes: -1 min_backoff: \"",
                                    backoff, "\" max_backoff: \"", backoff, "\" }\n}\n"));
}

// The VM is held meanwhile, so the guest cannot reload.
TEST_F(WatchdogTest, AnOutageOfItsProcessDoesNotExpireIt) {
  Start("ticks=700", {"--config=" + Config("", "4s")});
  for (uint64_t generation : {2, 3}) {  // only the second restart waits
    EXPECT_TRUE(client_->KillProcessOf("i6300esb"));
    EXPECT_TRUE(client_->AwaitGeneration("i6300esb", generation));
    AwaitReloads(3);
  }
  EXPECT_EQ(Expirations(), 0u) << vm_->log();
  Hang();
  AwaitExpiration();
  EXPECT_EQ(Expirations(), 1u);
}

TEST_F(WatchdogTest, KillsUnderLoadNeitherExpireNorStopIt) {
  Start("ticks=1000 pauses=200000", {"--config=" + Config("", "1ms")});
  for (int kills = 0; kills < 20; ++kills) {
    ASSERT_TRUE(client_->KillProcessOf("i6300esb"));
    absl::SleepFor(absl::Milliseconds(20));
  }
  AwaitReloads(3);
  EXPECT_EQ(Expirations(), 0u) << vm_->log();
  Hang();
  AwaitExpiration();
  EXPECT_EQ(Expirations(), 1u);
}

std::vector<std::string> CrashPoints() {
  std::vector<std::string> points;
  const std::string list =
      OutputOf(absl::StrCat(DataFile("devices/i6300esb/i6300esb"), " --crash_point=list"));
  for (const absl::string_view point : absl::StrSplit(list, '\n', absl::SkipEmpty())) {
    // It has no doorbells, and nothing to poll.
    if (!absl::StartsWith(point, "after_doorbell_") && point != "after_work_polled") {
      points.emplace_back(point);
    }
  }
  return points;
}

class WatchdogCrashTest : public WatchdogTest, public testing::WithParamInterface<std::string> {};

// The first process is killed. The second one dies at the point, be it in its attachment or later.
TEST_P(WatchdogCrashTest, ItExpiresOnce) {
  Start("ticks=1000",
        {"--config=" +
         Config(absl::StrCat("  arg: \"--crash_point=", GetParam(), ":1:2\"\n"), "1ms")});
  EXPECT_TRUE(client_->KillProcessOf("i6300esb"));
  EXPECT_TRUE(client_->AwaitGeneration("i6300esb", 2));
  AwaitReloads(2);
  EXPECT_EQ(Expirations(), 0u) << vm_->log();
  Hang();
  AwaitExpiration();
  OutputOf(absl::StrCat(DataFile("tools/vmctl/vmctl"), " --vm=watchdog-", getpid(),
                        " device reset i6300esb"));
  absl::SleepFor(absl::Milliseconds(1000));
  EXPECT_EQ(Expirations(), 1u) << vm_->log();
  EXPECT_TRUE(client_->AwaitGeneration("i6300esb", 3)) << "it was not reached";
  EXPECT_TRUE(client_->Stop().ok());
  EXPECT_EQ(Exit(), "exit code 6");
}

INSTANTIATE_TEST_SUITE_P(All, WatchdogCrashTest, testing::ValuesIn(CrashPoints()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace bulkhead::integration
