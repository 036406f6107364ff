// Device processes that die or hang, and a vmm that dies.

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/testing/processes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

// A guest that reads a register of the rig all the time, until it is ended.
absl::StatusOr<std::unique_ptr<VmProcess>> StartBusyGuest(const std::string& orders,
                                                          const std::string& device_more = "") {
  return VmProcess::Start({
      "--no-reboot",  // a program that fails resets
      absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
      absl::StrCat("--cmdline=run=", orders),
      absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig"), device_more),
  });
}

TEST(DeviceFailureTest, AProcessThatDiesOrHangsIsReplacedAndTheGuestDoesNotNotice) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartBusyGuest("watch_device", ",heartbeat=100ms");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  for (const int how : {SIGKILL, SIGSEGV, SIGSTOP}) {
    const pid_t old = (*vm)->PidOf("rig");
    ASSERT_GT(old, 0);
    ASSERT_EQ(kill(old, how), 0);
    ASSERT_TRUE((*vm)->WaitForLog("serves again", kTimeout).ok()) << (*vm)->log();
    EXPECT_NE((*vm)->PidOf("rig"), old);
  }
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 6");
  EXPECT_THAT((*vm)->output(), testing::Not(HasSubstr("all ones")));
  EXPECT_THAT((*vm)->log(), HasSubstr("killed by signal 9"));
  EXPECT_THAT((*vm)->log(), HasSubstr("killed, because it did not answer its heartbeats"));
}

TEST(DeviceFailureTest, AccessesToADeviceThatStaysAwayReadAllOnesAndItsDeathIsReported) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartBusyGuest("watch_device", ",restart=never");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  const pid_t device = (*vm)->PidOf("rig");
  ASSERT_GT(device, 0);
  ASSERT_EQ(kill(device, SIGKILL), 0);
  const absl::StatusOr<std::string> all_ones = (*vm)->WaitForOutput("all ones", kTimeout);
  EXPECT_TRUE(all_ones.ok()) << all_ones.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0");
  EXPECT_THAT((*vm)->log(), HasSubstr("rig"));
  EXPECT_THAT((*vm)->log(), HasSubstr("killed by signal 9"));
}

TEST(DeviceFailureTest, ADeviceThatHangsHoldsUpAnAccessForItsTimeoutOnly) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartBusyGuest("watch_device", ",timeout=200ms");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  const pid_t device = (*vm)->PidOf("rig");
  ASSERT_EQ(kill(device, SIGSTOP), 0);
  const absl::StatusOr<std::string> all_ones = (*vm)->WaitForOutput("all ones", kTimeout);
  EXPECT_TRUE(all_ones.ok()) << all_ones.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0");
  EXPECT_FALSE(IsAlive(device));
}

TEST(DeviceFailureTest, DevicesEndWithinASecondOfTheVmm) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = StartBusyGuest("watch_device");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  const std::vector<VmProcess::Child> devices = (*vm)->Children();
  ASSERT_EQ(devices.size(), 2u);
  ASSERT_TRUE((*vm)->Signal(SIGKILL).ok());
  ASSERT_TRUE((*vm)->WaitForExit(kTimeout).ok());
  const absl::Time deadline = absl::Now() + absl::Seconds(1);
  for (const VmProcess::Child& device : devices) {
    while (IsAlive(device.pid) && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_FALSE(IsAlive(device.pid)) << device.name;
  }
}

TEST(DeviceFailureTest, SigtermEndsTheVmAndItsDevices) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = StartBusyGuest("watch_device");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  const std::vector<VmProcess::Child> devices = (*vm)->Children();
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 6");
  EXPECT_THAT((*vm)->log(), HasSubstr("Terminated"));
  for (const VmProcess::Child& device : devices) EXPECT_FALSE(IsAlive(device.pid)) << device.name;
}

TEST(DeviceFailureTest, AWrongFlagOfADeviceIsAConfigurationErrorInOneLine) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartBusyGuest("hello", ",arg=--no_such_flag");
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 2");
  const std::string& log = (*vm)->log();
  EXPECT_THAT(log, HasSubstr("device 'rig': its flags are wrong"));
  EXPECT_THAT(log, HasSubstr("no_such_flag"));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << "not one line: " << log;
}

// At its limit of descriptors the vmm can start nothing, which is no crash of the device.
TEST(DeviceFailureTest, AShortageOfDescriptorsIsWaitedFor) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      StartBusyGuest("watch_device", ",heartbeat=100ms");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  rlimit before = {};
  ASSERT_EQ(prlimit((*vm)->pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  rlimit short_limit = before;
  short_limit.rlim_cur = 16;
  ASSERT_EQ(prlimit((*vm)->pid(), RLIMIT_NOFILE, &short_limit, nullptr), 0);
  ASSERT_EQ(kill((*vm)->PidOf("rig"), SIGKILL), 0);
  ASSERT_TRUE((*vm)->WaitForLog("the host lacks what a process needs", kTimeout).ok())
      << (*vm)->log();
  // For longer than five crashes in a row would take.
  absl::SleepFor(absl::Seconds(2));
  ASSERT_EQ(prlimit((*vm)->pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  ASSERT_TRUE((*vm)->WaitForLog("serves again", kTimeout).ok()) << (*vm)->log();
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 6");
  EXPECT_THAT((*vm)->output(), testing::Not(HasSubstr("all ones")));
  EXPECT_THAT((*vm)->log(), HasSubstr("Too many open files"));
}

// A device that forks: an ordinary program starts a child that would outlive it, and becomes the
// device.
TEST(DeviceFailureTest, WhatADeviceHasForkedEndsWithItAndWithTheVm) {
  const std::string script = absl::StrCat(testing::TempDir(), "/forks");
  std::ofstream(script) << "#!/bin/sh\nsetsid sleep 98765 &\nexec " << DataFile("devices/rig/rig")
                        << " \"$@\"\n";
  ASSERT_EQ(chmod(script.c_str(), 0700), 0);
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {"--no-reboot", absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
       "--cmdline=run=watch_device", "--sandbox=off",
       absl::StrCat("--device=name=rig,binary=", script)});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok());
  for (const int how : {SIGKILL, SIGTERM}) {
    const pid_t device = (*vm)->PidOf("rig");
    ASSERT_GT(device, 0);
    const pid_t forked = ChildOf(device);
    ASSERT_GT(forked, 0);
    if (how == SIGKILL) {
      ASSERT_EQ(kill(device, SIGKILL), 0);
      ASSERT_TRUE((*vm)->WaitForLog("serves again", kTimeout).ok()) << (*vm)->log();
    } else {
      ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
      EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 6");
    }
    EXPECT_FALSE(IsAlive(forked));
  }
}

TEST(DeviceFailureTest, AProgramThatIsNoDeviceIsRefused) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--sandbox=off", "--device=name=odd,binary=/bin/true"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 1");
  EXPECT_THAT((*vm)->log(), HasSubstr("device 'odd'"));
  EXPECT_THAT((*vm)->log(), HasSubstr("exit code 0"));
  EXPECT_THAT((*vm)->log(), HasSubstr("THE SANDBOX IS OFF"));
}

TEST(DeviceFailureTest, AProgramThatNeedsFilesIsRefusedInTheSandbox) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--device=name=odd,binary=/bin/true"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 1");
  EXPECT_THAT((*vm)->log(), HasSubstr("device 'odd'"));
  EXPECT_THAT((*vm)->log(), HasSubstr("it must be linked statically"));
}

}  // namespace
}  // namespace bulkhead::integration
