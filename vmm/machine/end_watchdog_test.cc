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

namespace bulkhead::vmm {
namespace {

constexpr EndWatchdog::Limits kQuick = {.say_after = absl::Milliseconds(100),
                                        .leave_after = absl::Milliseconds(300)};

// Never returns: what the rest of a vmm does that is stuck.
[[noreturn]] void Hang() {
  while (true) pause();
}

class EndWatchdogTest : public testing::Test {
 protected:
  EndWatchdogTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(EndWatchdogTest, AnEndThatHangsIsNamedAndThenForcedWithItsExitCode) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        watchdog->SetStep("device 'liar' to answer");
        watchdog->Begin(6);
        watchdog->Begin(1);  // comes too late
        Hang();
      },
      testing::ExitedWithCode(6),
      "waits for device 'liar' to answer\n(.|\n)*because of device 'liar' to answer");
}

TEST_F(EndWatchdogTest, LastActsAreDoneUnlessTheirOwnerHasGone) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        const EndWatchdog::LastAct act =
            watchdog->AddLastAct([] { fputs("terminal restored\n", stderr); });
        {
          (void)watchdog->AddLastAct([] { _exit(99); });
        }
        watchdog->Begin(0);
        Hang();
      },
      testing::ExitedWithCode(0), "terminal restored");
}

// For good, and no limit of processes binds root.
void TakeThreadsAndDescriptorsAway() {
  const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
  const rlimit standard = {.rlim_cur = 3, .rlim_max = 3};  // poll(2) wants some
  if (setrlimit(RLIMIT_NOFILE, &standard) != 0 || setrlimit(RLIMIT_NPROC, &none) != 0) _exit(97);
  if (setuid(65534) != 0 && geteuid() == 0) _exit(98);
  if (EventFd::Create().ok() || StartDetachedThread("none", [] {}) == 0) _exit(99);
}

TEST_F(EndWatchdogTest, LastActsTakeNeitherAThreadNorADescriptor) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        const EndWatchdog::LastAct act =
            watchdog->AddLastAct([] { fputs("terminal restored\n", stderr); });
        TakeThreadsAndDescriptorsAway();
        watchdog->Begin(6);
        Hang();
      },
      testing::ExitedWithCode(6), "because of the threads of the vmm(.|\n)*terminal restored");
}

TEST_F(EndWatchdogTest, AnActAndAStepThatBlockDoNotKeepTheProcess) {
  EXPECT_EXIT(
      {
        EndWatchdog* const watchdog = *EndWatchdog::Start(kQuick);
        watchdog->SetStep([]() -> std::string { Hang(); });
        const EndWatchdog::LastAct act = watchdog->AddLastAct([] { Hang(); });
        watchdog->Begin(4);
        Hang();
      },
      testing::ExitedWithCode(4), "");
}

TEST_F(EndWatchdogTest, ASignalThatNobodyReadsCountsAsTheWishToEnd) {
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
