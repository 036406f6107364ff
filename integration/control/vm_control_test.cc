// A VM as those see it who control it: its socket and name, pause and resume, the end, reboots.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

absl::StatusOr<std::unique_ptr<VmProcess>> StartGuest(const std::string& orders,
                                                      std::vector<std::string> flags = {}) {
  flags.push_back(absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")));
  flags.push_back(absl::StrCat("--cmdline=run=", orders));
  return VmProcess::Start(flags);
}

bool Exists(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0;
}

// Starts a guest and waits until it runs.
#define START_GUEST(vm, first_output, ...)                                                 \
  const absl::StatusOr<std::unique_ptr<VmProcess>> started_##vm = StartGuest(__VA_ARGS__); \
  ASSERT_TRUE(started_##vm.ok()) << started_##vm.status();                                 \
  const std::unique_ptr<VmProcess>& vm = *started_##vm;                                    \
  {                                                                                        \
    const absl::StatusOr<std::string> output = vm->WaitForOutput(first_output, kTimeout);  \
    ASSERT_TRUE(output.ok()) << output.status();                                           \
  }

TEST(VmControlTest, StatusTellsWhatRuns) {
  START_GUEST(vm, "idle", "idle", {"--name=status", "--cpus=2", "--memory=64M", "--control=none"});
  EXPECT_FALSE(Exists(ControlSocketOf("status")));

  START_GUEST(other, "idle", "idle", {"--name=status", "--cpus=2", "--memory=64M"});
  const VmClient client(ControlSocketOf("status"));
  const absl::StatusOr<v1::VmStatus> status = client.GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->name(), "status");
  EXPECT_EQ(status->state(), v1::VmStatus::RUNNING);
  EXPECT_EQ(status->pid(), other->pid());
  EXPECT_EQ(status->vcpus(), 2u);
  EXPECT_EQ(status->memory_bytes(), 64u << 20);
  EXPECT_EQ(status->cmdline(), "run=idle");
  EXPECT_EQ(status->devices(), 1u);
  EXPECT_EQ(status->reboots(), 0u);
}

TEST(VmControlTest, StoppingEndsTheVmAndRemovesItsSocket) {
  START_GUEST(vm, "idle", "idle", {"--name=stop"});
  const VmClient client(ControlSocketOf("stop"));
  const absl::Status stopped = client.Stop();
  EXPECT_TRUE(stopped.ok()) << stopped;
  EXPECT_EQ(vm->WaitForExit(kTimeout)->ToString(), "exit code 6");
  EXPECT_FALSE(Exists(ControlSocketOf("stop")));
}

TEST(VmControlTest, APausedGuestDoesNothingUntilItIsResumed) {
  START_GUEST(vm, "tick 3\r", "ticker", {"--name=pause", "--cpus=2"});
  const VmClient client(ControlSocketOf("pause"));
  ASSERT_TRUE(client.Pause().ok());
  EXPECT_TRUE(client.Pause().ok()) << "pausing a paused VM is no error";
  EXPECT_EQ(client.GetStatus()->state(), v1::VmStatus::PAUSED);
  EXPECT_EQ(client.GetStatus()->pause_reason(), "paused by a client");
  // What it has printed before may still be on its way.
  (void)vm->WaitForOutput("no such text", absl::Milliseconds(100));
  const size_t printed = vm->output().size();
  (void)vm->WaitForOutput("no such text", absl::Milliseconds(200));
  EXPECT_EQ(vm->output().size(), printed);

  ASSERT_TRUE(client.Resume().ok());
  EXPECT_TRUE(client.Resume().ok());
  EXPECT_EQ(client.GetStatus()->state(), v1::VmStatus::RUNNING);
  const absl::StatusOr<std::string> more = vm->WaitForOutput("tick", kTimeout);
  EXPECT_TRUE(more.ok()) << more.status();
}

TEST(VmControlTest, APausedVmCanBeEnded) {
  START_GUEST(vm, "tick", "ticker", {"--name=pause-stop"});
  const VmClient client(ControlSocketOf("pause-stop"));
  ASSERT_TRUE(client.Pause().ok());
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(vm->WaitForExit(kTimeout)->ToString(), "exit code 6");
}

TEST(VmControlTest, RebootsAreCountedAndTold) {
  const std::string disk = absl::StrCat(::testing::TempDir(), "/reboots.img");
  std::ofstream(disk) << std::string(4096, '\0');
  START_GUEST(vm, "boot 3\r", "reboot_test boots=3 then_idle=1",
              {"--name=reboots", absl::StrCat("--disk=path=", disk)});
  const VmClient client(ControlSocketOf("reboots"));
  const absl::StatusOr<v1::VmStatus> status = client.GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->reboots(), 2u);
  EXPECT_EQ(status->state(), v1::VmStatus::RUNNING);
  const absl::StatusOr<std::vector<v1::Event>> events = client.PastEvents();
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_FALSE(events->empty());
  EXPECT_TRUE(events->front().has_snapshot());
  int resets = 0;
  std::vector<int> states;
  for (const v1::Event& event : *events) {
    resets += event.has_guest_reset() ? 1 : 0;
    if (event.has_vm_state()) states.push_back(event.vm_state().state());
  }
  EXPECT_EQ(resets, 2);
  EXPECT_EQ(states,
            (std::vector<int>{v1::VmStatus::RUNNING, v1::VmStatus::REBOOTING, v1::VmStatus::RUNNING,
                              v1::VmStatus::REBOOTING, v1::VmStatus::RUNNING}));
}

TEST(VmControlTest, VmsWithoutANameOfTheirOwnAreNumbered) {
  START_GUEST(first, "idle", "idle");
  START_GUEST(second, "idle", "idle");
  EXPECT_EQ(VmClient(ControlSocketOf("vm")).GetStatus()->pid(), first->pid());
  const absl::StatusOr<v1::VmStatus> status = VmClient(ControlSocketOf("vm-2")).GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->name(), "vm-2");
  EXPECT_EQ(status->pid(), second->pid());
}

TEST(VmControlTest, AGivenNameThatIsTakenIsAConfigurationError) {
  START_GUEST(vm, "idle", "idle", {"--name=taken"});
  const absl::StatusOr<std::unique_ptr<VmProcess>> second = StartGuest("idle", {"--name=taken"});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ((*second)->WaitForExit(kTimeout)->ToString(), "exit code 2");
  const std::string& log = (*second)->log();
  EXPECT_THAT(log, HasSubstr("\"taken\""));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << "not one line: " << log;
  EXPECT_TRUE(VmClient(ControlSocketOf("taken")).GetStatus().ok());
}

TEST(VmControlTest, TheNameOfAVmThatWasKilledIsFree) {
  {
    START_GUEST(vm, "idle", "idle", {"--name=killed"});
    ASSERT_TRUE(vm->Signal(SIGKILL).ok());
    ASSERT_TRUE(vm->WaitForExit(kTimeout).ok());
    ASSERT_TRUE(Exists(ControlSocketOf("killed")));
  }
  START_GUEST(vm, "idle", "idle", {"--name=killed"});
  EXPECT_EQ(VmClient(ControlSocketOf("killed")).GetStatus()->pid(), vm->pid());
}

TEST(VmControlTest, AnErrorAtTheStartLeavesNoSocketBehind) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartGuest("idle", {"--name=broken", "--device=name=odd,binary=/bin/true"});
  ASSERT_TRUE(vm.ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 1");
  EXPECT_FALSE(Exists(ControlSocketOf("broken")));
}

TEST(VmControlTest, TheSocketCanBeAnywhereAndIsItsUsersAlone) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/", getpid(), ".ctl");
  START_GUEST(vm, "idle", "idle", {absl::StrCat("--control=", path)});
  struct stat info;
  ASSERT_EQ(lstat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_TRUE(VmClient(path).GetStatus().ok());
  const absl::StatusOr<std::unique_ptr<VmProcess>> second =
      StartGuest("idle", {absl::StrCat("--control=", path)});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ((*second)->WaitForExit(kTimeout)->ToString(), "exit code 2");
}

}  // namespace
}  // namespace bulkhead::integration
