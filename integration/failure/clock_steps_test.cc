// The clock of the host is set, by hours. Runs in the testbed alone: it does set the clock.

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);

// Its process 1 is the testbed's agent.
bool InTestbed() {
  std::string program;
  std::ifstream command_line("/proc/1/cmdline");
  return std::getline(command_line, program, '\0') && program == "/init";
}

// The steady clock does not notice.
void StepClock(absl::Duration by) {
  ASSERT_TRUE(InTestbed()) << "not with this machine's clock";
  timespec now;
  ASSERT_EQ(clock_gettime(CLOCK_REALTIME, &now), 0);
  now.tv_sec += absl::ToInt64Seconds(by);
  ASSERT_EQ(clock_settime(CLOCK_REALTIME, &now), 0) << strerror(errno);
}

std::unique_ptr<VmProcess> Start(const std::string& program, const std::string& shell = "") {
  absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        absl::StrCat("--cmdline=run=", program), "--memory=64M", "--name=steps",
                        absl::StrCat("--device-dir=", DataFile("devices/uart16550"))},
                       shell);
  EXPECT_TRUE(vm.ok()) << vm.status();
  return *std::move(vm);
}

TEST(ClockStepsTest, UptimesAndPausesAreByTheSteadyClock) {
  const std::unique_ptr<VmProcess> vm = Start("ticker");
  ASSERT_TRUE(vm->WaitForOutput("tick", kTimeout).ok());
  const VmClient client(ControlSocketOf("steps"));
  for (const absl::Duration step : {absl::Hours(-2), absl::Hours(5)}) {
    StepClock(step);
    const absl::StatusOr<v1::VmStatus> status = client.GetStatus();
    ASSERT_TRUE(status.ok()) << status.status();
    for (const int64_t uptime : {status->uptime().seconds(), status->guest_uptime().seconds()}) {
      EXPECT_GE(uptime, 0);
      EXPECT_LT(uptime, 600);
    }
    EXPECT_TRUE(client.Pause().ok());
    EXPECT_TRUE(client.Resume().ok());
  }
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(vm->WaitForExit(kTimeout)->ToString(), "exit code 6");
}

// The end waits half a second for a reader of the console who does not come; meanwhile the clock is
// set back.
TEST(ClockStepsTest, AWaitDoesNotLastLongerForAClockThatIsSetBack) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const std::string unread = absl::StrCat("/proc/", getpid(), "/fd/", ends[1]);
  const std::unique_ptr<VmProcess> vm = Start("ticker", absl::StrCat("exec >", unread));
  // More than the pipe and the UART hold, so that some is left at the end.
  absl::SleepFor(absl::Seconds(2));
  ASSERT_EQ(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
  const std::string filler(4096, 'x');
  while (write(ends[1], filler.data(), filler.size()) > 0) {
  }
  absl::SleepFor(absl::Seconds(1));
  const absl::Time begin = SteadyNow();
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  for (int i = 0; i < 20; ++i) {
    absl::SleepFor(absl::Milliseconds(50));
    StepClock(absl::Hours(-1));
  }
  const absl::StatusOr<ExitInfo> exit = vm->WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << "still there after " << absl::FormatDuration(SteadyNow() - begin);
  EXPECT_EQ(exit->ToString(), "exit code 6");
}

}  // namespace
}  // namespace bulkhead::integration
