// Rate limits of a disk under a guest that asks for more, whatever happens to the disk's process.

#include <stdint.h>
#include <time.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(120);

absl::StatusOr<std::unique_ptr<VmProcess>> StartStorm(const std::string& name,
                                                      const std::string& orders,
                                                      const std::string& limits) {
  const std::string path = WriteTempFile(name + ".img", std::string(1 << 20, '\0'));
  return VmProcess::Start({absl::StrCat("--name=", name), "--console=stdio", "--no-reboot",
                           absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                           absl::StrCat("--cmdline=run=disk_storm blocks=64 ", orders),
                           absl::StrCat("--disk=path=", path, ",", limits)});
}

// User and system time of a process.
absl::Duration CpuTime(pid_t pid) {
  clockid_t clock;
  timespec time = {};
  EXPECT_EQ(clock_getcpuclockid(pid, &clock), 0);
  EXPECT_EQ(clock_gettime(clock, &time), 0);
  return absl::DurationFromTimespec(time);
}

TEST(DiskLimitsTest, TheRateHoldsAndKillsGiveNoBurst) {
  constexpr int kRequests = 2000;
  const auto vm =
      StartStorm("limited", absl::StrCat("requests=", kRequests), "iops=1000,iops-burst=100");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("storm begins", kTimeout).ok()) << (*vm)->log();
  const absl::Time begin = SteadyNow();
  const VmClient client(ControlSocketOf("limited"));
  for (int i = 0; i < 4; ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    ASSERT_TRUE(client.KillProcessOf("disk0"));
  }
  ASSERT_TRUE((*vm)->WaitForOutput("storm ends", kTimeout).ok()) << (*vm)->output();
  // The guest may have begun a little before it was seen to.
  EXPECT_GE(SteadyNow() - begin, absl::Milliseconds(kRequests - 100 - 200));
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->output();
}

TEST(DiskLimitsTest, LimitsChangeWhileTheGuestRuns) {
  constexpr int kRequests = 20'000;
  const auto vm = StartStorm("changes", absl::StrCat("requests=", kRequests), "iops=100");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("storm begins", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf("changes"));
  v1::LimitDeviceRequest limit;
  limit.set_name("disk0");
  limit.set_operations_per_second(0);
  const absl::StatusOr<v1::Device> unlimited = client.LimitDevice(limit);
  ASSERT_TRUE(unlimited.ok()) << unlimited.status();
  EXPECT_THAT(unlimited->arg(), testing::ElementsAre("--iops=0"));
  ASSERT_TRUE(client.KillProcessOf("disk0"));
  // It would take more than the time limit with the old one.
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->output();
}

TEST(DiskLimitsTest, ADeviceWithoutLimitsContinuesAsItIs) {
  const auto vm = StartStorm("refuses", "until_key=1", "iops=100000");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("storm begins", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf("refuses"));
  v1::LimitDeviceRequest limit;
  limit.set_name("console");
  limit.set_operations_per_second(1);
  const pid_t before = client.PidOf("console");
  EXPECT_EQ(client.LimitDevice(limit).status().code(), absl::StatusCode::kFailedPrecondition);
  const absl::StatusOr<v1::Device> console = client.GetDevice("console");
  ASSERT_TRUE(console.ok()) << console.status();
  EXPECT_EQ(console->pid(), before);
  EXPECT_THAT(console->arg(), testing::IsEmpty());
  ASSERT_TRUE((*vm)->Type("x").ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->output();
}

TEST(DiskLimitsTest, ADiskThatIsLimitedDoesNotPoll) {
  const auto vm = StartStorm("sleepy", "until_key=1", "bps=1M");
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("storm begins", kTimeout).ok()) << (*vm)->log();
  const pid_t pid = VmClient(ControlSocketOf("sleepy")).PidOf("disk0");
  absl::SleepFor(absl::Milliseconds(500));
  const absl::Duration before = CpuTime(pid);
  absl::SleepFor(absl::Seconds(2));
  EXPECT_LT(CpuTime(pid) - before, absl::Milliseconds(600));
  ASSERT_TRUE((*vm)->Type("x").ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->output();
}

}  // namespace
}  // namespace bulkhead::integration
