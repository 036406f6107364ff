// A VM as those see it who control it: its socket and name, pause and resume, the end, reboots.

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
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

std::string RigDevice() {
  return absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig"));
}

std::string EmptyDisk(const std::string& name) {
  return WriteTempFile(name + ".img", std::string(4096, '\0'));
}

// A configuration of a guest program, a rig with these further fields, and a disk that
// may die as often as it likes.
std::string WriteConfig(const std::string& name, const std::string& orders,
                        const std::string& rig_fields) {
  std::string path = TempPath(name + ".textproto");
  std::ofstream(path) << "memory: \"64M\" cpus: 1 kernel { path: \""
                      << DataFile("kernel_images/baremetal/guest.elf")
                      << "\" cmdline: \"run=" << orders << "\" } devices { name: \"rig\" binary: \""
                      << DataFile("devices/rig/rig") << "\" " << rig_fields
                      << " } devices { name: \"disk0\" binary: \"virtio_blk\""
                      << " restart { max_crashes: -1 max_backoff: \"100ms\" }"
                      << " resources { name: \"disk\" file { path: \"" << EmptyDisk(name)
                      << "\" } } }";
  return path;
}

std::string EndOf(VmProcess& vm) {
  const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(kTimeout);
  return exit.ok() ? exit->ToString() : exit.status().ToString();
}

bool AwaitState(const VmClient& client, v1::VmStatus::State state) {
  const absl::Time deadline = absl::Now() + kTimeout;
  while (absl::Now() < deadline) {
    const absl::StatusOr<v1::VmStatus> status = client.GetStatus();
    if (status.ok() && status->state() == state) return true;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return false;
}

// The value for that device (and kind, if there are several). -1: there is none.
double Metric(const VmClient& client, const std::string& name, const std::string& device,
              const std::string& kind = "") {
  const absl::StatusOr<v1::VmMetrics> metrics = client.GetMetrics();
  EXPECT_TRUE(metrics.ok()) << metrics.status();
  if (!metrics.ok()) return -1;
  for (const v1::MetricFamily& family : metrics->families()) {
    if (family.name() != name) continue;
    for (const v1::Sample& sample : family.samples()) {
      const auto kind_label = sample.labels().find("kind");
      if (sample.labels().at("device") == device &&
          (kind.empty() || (kind_label != sample.labels().end() && kind_label->second == kind))) {
        return sample.value();
      }
    }
  }
  return -1;
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
  EXPECT_EQ(EndOf(*vm), "exit code 6");
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
  EXPECT_EQ(EndOf(*vm), "exit code 6");
}

TEST(VmControlTest, RebootsAreCountedAndTold) {
  START_GUEST(vm, "boot 3\r", "reboot_test boots=3 then_idle=1",
              {"--name=reboots", absl::StrCat("--disk=path=", EmptyDisk("reboots"))});
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
  EXPECT_EQ(EndOf(**second), "exit code 2");
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
  }
  // At once: its socket may still be there, and what removes it must leave the new one alone.
  START_GUEST(vm, "idle", "idle", {"--name=killed"});
  EXPECT_EQ(VmClient(ControlSocketOf("killed")).GetStatus()->pid(), vm->pid());
}

TEST(VmControlTest, AnErrorAtTheStartLeavesNoSocketBehind) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartGuest("idle", {"--name=broken", "--device=name=odd,binary=/bin/true"});
  ASSERT_TRUE(vm.ok());
  EXPECT_EQ(EndOf(**vm), "exit code 1");
  EXPECT_FALSE(Exists(ControlSocketOf("broken")));
}

TEST(VmControlTest, TheSocketCanBeAnywhereAndIsItsUsersAlone) {
  const std::string path = TempPath(absl::StrCat(getpid(), ".ctl"));
  START_GUEST(vm, "idle", "idle", {absl::StrCat("--control=", path)});
  struct stat info;
  ASSERT_EQ(lstat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_TRUE(VmClient(path).GetStatus().ok());
  const absl::StatusOr<std::unique_ptr<VmProcess>> second =
      StartGuest("idle", {absl::StrCat("--control=", path)});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(EndOf(**second), "exit code 2");
}

TEST(VmControlTest, PausingDoesNotWaitForADeviceThatHangs) {
  START_GUEST(vm, "watching", "watch_device", {"--name=hangs", RigDevice()});
  const VmClient client(ControlSocketOf("hangs"));
  const pid_t device = client.GetDevice("rig")->pid();
  ASSERT_EQ(kill(device, SIGSTOP), 0);  // the vCPU waits for it all the time
  const absl::Status paused = client.Pause();
  EXPECT_TRUE(paused.ok()) << paused;
  EXPECT_EQ(client.GetStatus()->state(), v1::VmStatus::PAUSED);
  ASSERT_EQ(kill(device, SIGCONT), 0);
  ASSERT_TRUE(client.Resume().ok());
  // The access goes on where it was: the guest sees nothing but the right value.
  const double reads = Metric(client, "bulkhead_device_accesses_total", "rig", "read");
  const absl::Time deadline = absl::Now() + kTimeout;
  while (Metric(client, "bulkhead_device_accesses_total", "rig", "read") < reads + 100 &&
         absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_LT(absl::Now(), deadline) << "the guest stands still";
  EXPECT_EQ(vm->output().find("all ones"), std::string::npos);
  EXPECT_EQ(vm->output().find("FAIL"), std::string::npos);
}

TEST(VmControlTest, ADevicesProcessIsReplacedUnderARunningGuest) {
  START_GUEST(vm, "watching", "watch_device", {"--name=replaced", RigDevice()});
  const VmClient client(ControlSocketOf("replaced"));
  const absl::StatusOr<v1::Device> before = client.GetDevice("rig");
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(before->state(), v1::Device::RUNNING);
  EXPECT_EQ(before->pci().address(), "00:01.0");
  EXPECT_EQ(before->pci().device_id(), 0xb001u);
  ASSERT_GE(before->pci().bars_size(), 2);
  EXPECT_TRUE(before->pci().bars(0).decoded());
  const absl::StatusOr<v1::Device> after = client.RestartDevice("rig");
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->state(), v1::Device::RUNNING);
  EXPECT_NE(after->pid(), before->pid());
  EXPECT_EQ(after->generation(), 2u);
  EXPECT_EQ(after->restarts(), 1u);
  EXPECT_EQ(Metric(client, "bulkhead_device_restarts_total", "rig"), 1);
  EXPECT_EQ(vm->output().find("all ones"), std::string::npos);

  EXPECT_EQ(client.RestartDevice("nobody").status().code(), absl::StatusCode::kNotFound);
  const absl::StatusOr<v1::Device> stopped = client.StopDevice("rig");
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->state(), v1::Device::STOPPED);
  EXPECT_EQ(stopped->pid(), 0);
  EXPECT_TRUE(vm->WaitForOutput("it reads as all ones", kTimeout).ok());
  EXPECT_EQ(EndOf(*vm), "exit code 0");
}

TEST(VmControlTest, NoMetricOfADeviceIsThereTwice) {
  START_GUEST(
      vm, "idle", "idle",
      {"--name=unique", "--rng", RigDevice(), absl::StrCat("--disk=path=", EmptyDisk("unique"))});
  const VmClient client(ControlSocketOf("unique"));
  // Devices are asked for theirs, but not waited for if they are slow.
  const absl::Time deadline = absl::Now() + kTimeout;
  while (Metric(client, "bulkhead_device_model_flushes_total", "disk0") < 0 ||
         Metric(client, "bulkhead_device_model_register_reads_total", "rig") < 0) {
    ASSERT_LT(absl::Now(), deadline);
    absl::SleepFor(absl::Milliseconds(20));
  }
  const absl::StatusOr<v1::VmMetrics> metrics = client.GetMetrics();
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  for (const v1::MetricFamily& family : metrics->families()) {
    std::set<std::map<std::string, std::string>> series;
    for (const v1::Sample& sample : family.samples()) {
      const std::map<std::string, std::string> labels(sample.labels().begin(),
                                                      sample.labels().end());
      EXPECT_TRUE(series.insert(labels).second) << sample.ShortDebugString() << family.name();
    }
  }
}

TEST(VmControlTest, ADeviceThatIsAwayPausesTheVmIfItsPolicySaysSo) {
  const std::string config =
      WriteConfig("pauses", "watch_device", "access_policy: PAUSE_VM restart { policy: NEVER }");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--config=", config), "--name=pauses", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf("pauses"));
  ASSERT_EQ(kill(client.GetDevice("rig")->pid(), SIGKILL), 0);
  ASSERT_TRUE(AwaitState(client, v1::VmStatus::PAUSED));
  EXPECT_EQ(client.GetStatus()->pause_reason(), "device 'rig' is unavailable");

  // A client's pause comes on top, and taking it back is not enough.
  ASSERT_TRUE(client.Pause().ok());
  EXPECT_EQ(client.GetStatus()->pause_reason(), "paused by a client, device 'rig' is unavailable");
  const absl::Status resumed = client.Resume();
  EXPECT_EQ(resumed.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(resumed.message()), HasSubstr("device 'rig' is unavailable"));

  const absl::StatusOr<v1::Device> restarted = client.RestartDevice("rig");
  ASSERT_TRUE(restarted.ok()) << restarted.status();
  EXPECT_TRUE(AwaitState(client, v1::VmStatus::RUNNING));
  EXPECT_EQ((*vm)->output().find("all ones"), std::string::npos);
  EXPECT_EQ((*vm)->output().find("FAIL"), std::string::npos);
}

TEST(VmControlTest, ARebootTakesAlongADeviceThatHangs) {
  const std::string config =
      WriteConfig("hung-reboot", "reboot_test boots=2 by_key=1", "heartbeat { interval: \"0\" }");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--config=", config), "--name=hung-reboot", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("waits", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf("hung-reboot"));
  const pid_t hung = client.GetDevice("rig")->pid();
  ASSERT_EQ(kill(hung, SIGSTOP), 0);
  ASSERT_TRUE((*vm)->Type("x").ok());
  EXPECT_TRUE((*vm)->WaitForOutput("boot 2", kTimeout).ok());
  EXPECT_EQ(EndOf(**vm), "exit code 0") << (*vm)->log();
  EXPECT_THAT((*vm)->log(), HasSubstr("could not be reset"));
}

TEST(VmControlTest, ARebootThatWaitsForADeviceCanBeEnded) {
  const std::string config =
      WriteConfig("ended-reboot", "reboot_test boots=2 by_key=1", "heartbeat { interval: \"0\" }");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--config=", config), "--name=ended-reboot", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("waits", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf("ended-reboot"));
  ASSERT_EQ(kill(client.GetDevice("rig")->pid(), SIGSTOP), 0);
  ASSERT_TRUE((*vm)->Type("x").ok());
  ASSERT_TRUE(AwaitState(client, v1::VmStatus::REBOOTING));
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ(EndOf(**vm), "exit code 6");
  EXPECT_EQ((*vm)->output().find("boot 2"), std::string::npos);
}

// The highest number of an open descriptor of process `pid`.
int LastDescriptor(pid_t pid) {
  int last = 0;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    last = std::max(last, std::stoi(entry.path().filename().string()));
  }
  return last;
}

constexpr char kRebootWaits[] = "the guest's reboot waits for the host";

TEST(VmControlTest, ARebootWaitsForWhatTheHostLacks) {
  constexpr int kBoots = 14;
  const std::string config =
      WriteConfig("poor-reboot", absl::StrCat("reboot_test boots=", kBoots, " by_key=1"), "");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--config=", config), "--name=poor-reboot", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  const pid_t pid = (*vm)->pid();
  rlimit before;
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
  for (int boot = 1; boot < kBoots; ++boot) {
    ASSERT_TRUE((*vm)->WaitForOutput(absl::StrCat("boot ", boot, "\r\nwaits"), kTimeout).ok())
        << (*vm)->log();
    // From none at all to what suffices: it fails here and there.
    rlimit low = before;
    low.rlim_cur = boot == 1 ? 8 : static_cast<rlim_t>(LastDescriptor(pid) - 20 + 2 * boot);
    ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &low, nullptr), 0);
    ASSERT_TRUE((*vm)->Type("x").ok());
    absl::SleepFor(absl::Milliseconds(300));  // several tries
    ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &before, nullptr), 0);
  }
  EXPECT_EQ(EndOf(**vm), "exit code 0") << (*vm)->log();
  EXPECT_THAT((*vm)->log(), HasSubstr(kRebootWaits));
}

TEST(VmControlTest, ARebootThatWaitsForTheHostCanBeEnded) {
  const std::string config = WriteConfig("poor-end", "reboot_test boots=2 by_key=1", "");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--config=", config), "--name=poor-end", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("waits", kTimeout).ok()) << (*vm)->log();
  rlimit low;
  ASSERT_EQ(prlimit((*vm)->pid(), RLIMIT_NOFILE, nullptr, &low), 0);
  low.rlim_cur = 8;
  ASSERT_EQ(prlimit((*vm)->pid(), RLIMIT_NOFILE, &low, nullptr), 0);
  ASSERT_TRUE((*vm)->Type("x").ok());
  const absl::Time deadline = absl::Now() + kTimeout;
  while ((*vm)->log().find(kRebootWaits) == std::string::npos && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ(EndOf(**vm), "exit code 6");
  EXPECT_THAT((*vm)->log(), HasSubstr(kRebootWaits));
  EXPECT_EQ((*vm)->output().find("boot 2"), std::string::npos);
}

TEST(VmControlTest, APressOfThePowerButtonThatIsKeptOutlivesReboots) {
  START_GUEST(
      vm, "waits", "reboot_test boots=4 by_key=1 button=3",
      {"--name=press", "--console=stdio", absl::StrCat("--disk=path=", EmptyDisk("press"))});
  const VmClient client(ControlSocketOf("press"));
  EXPECT_TRUE(client.Shutdown().ok());
  ASSERT_TRUE(vm->Type("x").ok());
  ASSERT_TRUE(vm->WaitForOutput("boot 2\r\nwaits", kTimeout).ok()) << vm->log();
  ASSERT_TRUE(vm->Type("x").ok());
  ASSERT_TRUE(vm->WaitForOutput("boot 3\r\nbutton pressed\r\nwaits", kTimeout).ok()) << vm->log();
  ASSERT_TRUE(vm->Type("x").ok());
  EXPECT_TRUE(vm->WaitForOutput("boot 4\r\nbutton not pressed", kTimeout).ok()) << vm->log();
  EXPECT_EQ(EndOf(*vm), "exit code 0");
}

TEST(VmControlTest, APressOfThePowerButtonWhileTheGuestRebootsIsKept) {
  const std::string config = WriteConfig("press-reboot", "reboot_test boots=2 by_key=1 button=2",
                                         "heartbeat { interval: \"0\" }");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--config=", config), "--name=press-reboot", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("waits", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf("press-reboot"));
  // Its reset takes five seconds.
  ASSERT_EQ(kill(client.GetDevice("rig")->pid(), SIGSTOP), 0);
  ASSERT_TRUE((*vm)->Type("x").ok());
  ASSERT_TRUE(AwaitState(client, v1::VmStatus::REBOOTING));
  EXPECT_TRUE(client.Shutdown().ok());
  EXPECT_TRUE((*vm)->WaitForOutput("boot 2\r\nbutton pressed", kTimeout).ok()) << (*vm)->log();
  EXPECT_EQ(EndOf(**vm), "exit code 0") << (*vm)->log();
}

TEST(VmControlTest, ADiskCanDieAnywhereInARebootingGuest) {
  const std::string config = WriteConfig("dying", "reboot_test boots=12", "");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--config=", config), "--name=dying", "--console=stdio"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  const VmClient client(ControlSocketOf("dying"));
  for (int boot = 1; boot <= 12; ++boot) {
    const absl::StatusOr<std::string> output =
        (*vm)->WaitForOutput(absl::StrCat("boot ", boot, "\r"), kTimeout);
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(output->find("FAIL"), std::string::npos) << (*vm)->output();
    // Somewhere between what it just did, its reset, and the next boot.
    const absl::StatusOr<v1::Device> disk = client.GetDevice("disk0");
    if (disk.ok() && disk->pid() > 0) kill(disk->pid(), SIGKILL);
  }
  EXPECT_EQ(EndOf(**vm), "exit code 0") << (*vm)->log();
}

}  // namespace
}  // namespace bulkhead::integration
