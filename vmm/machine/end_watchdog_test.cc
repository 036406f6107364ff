#include "vmm/machine/end_watchdog.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/detached_thread.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "gtest/gtest.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/common_interface_defs.h>
#endif

namespace bulkhead::vmm {
namespace {

constexpr EndWatchdog::Limits kQuick = {.warn_after = absl::Milliseconds(100),
                                        .exit_after = absl::Milliseconds(300)};

// Never returns, like the rest of a stuck vmm.
[[noreturn]] void Hang() {
  while (true) pause();
}

class EndWatchdogTest : public testing::Test {
 protected:
  EndWatchdogTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(EndWatchdogTest, AnEndThatHangsIsReportedAndThenForcedWithItsExitCode) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        watchdog->SetStep("device 'liar' to answer");
        watchdog->Begin(6);
        watchdog->Begin(1);  // no effect: not the first call
        Hang();
      },
      testing::ExitedWithCode(6),
      "waits for device 'liar' to answer\n(.|\n)*waiting for device 'liar' to answer");
}

TEST_F(EndWatchdogTest, ExitActionsAreCalledUnlessTheyWereDestroyed) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        const EndWatchdog::ExitAction act =
            watchdog->AddExitAction([] { fputs("terminal restored\n", stderr); });
        {
          (void)watchdog->AddExitAction([] { _exit(99); });
        }
        watchdog->Begin(0);
        Hang();
      },
      testing::ExitedWithCode(0), "terminal restored");
}

// Sets the limits for the rest of the process. Gives up root, which no limit of processes binds.
void TakeThreadsAndDescriptorsAway() {
#ifdef __SANITIZE_THREAD__
  // TSan's suppressions need the names of functions, and another process for these: it starts now.
  char name[100];
  __sanitizer_symbolize_pc(__builtin_return_address(0), "%f", name, sizeof(name));
#endif
  const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
  const rlimit standard = {.rlim_cur = 3, .rlim_max = 3};  // poll(2) needs at least 2
  if (setrlimit(RLIMIT_NOFILE, &standard) != 0 || setrlimit(RLIMIT_NPROC, &none) != 0) _exit(97);
  if (setuid(65534) != 0 && geteuid() == 0) _exit(98);
  if (EventFd::Create().ok() || StartDetachedThread("none", [] {}) == 0) _exit(99);
}

TEST_F(EndWatchdogTest, ExitActionsNeedNoNewThreadOrDescriptor) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        const EndWatchdog::ExitAction act =
            watchdog->AddExitAction([] { fputs("terminal restored\n", stderr); });
        TakeThreadsAndDescriptorsAway();
        watchdog->Begin(6);
        Hang();
      },
      testing::ExitedWithCode(6), "waiting for the threads of the vmm(.|\n)*terminal restored");
}

TEST_F(EndWatchdogTest, AnActionAndAStepThatBlockDoNotPreventTheExit) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        watchdog->SetStep([]() -> std::string { Hang(); });
        const EndWatchdog::ExitAction act = watchdog->AddExitAction([] { Hang(); });
        watchdog->Begin(4);
        Hang();
      },
      testing::ExitedWithCode(4), "");
}

TEST_F(EndWatchdogTest, AnUnreadSignalBeginsTheEnd) {
  EXPECT_EXIT(
      {
        const EventFd signals = *EventFd::Create();
        EndWatchdog::Limits limits = kQuick;
        limits.exit_request_fd = signals.fd();
        limits.exit_request_code = 6;
        (void)*EndWatchdog::Start(limits);
        signals.Signal();
        Hang();
      },
      testing::ExitedWithCode(6), "");
}

}  // namespace
}  // namespace bulkhead::vmm
