// What a process inherits from its parent: limits and signals.

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <string>

#include "base/own_limits.h"
#include "base/taken_signals.h"
#include "base/testing/processes.h"
#include "base/testing/streams.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(TakeSignalsTest, ASignalIsReadAndDoesNothingElse) {
  EXPECT_TRUE(HoldsInChild([] {
    signal(SIGTERM, SIG_DFL);
    const UniqueFd signals = *TakeSignals({SIGTERM});
    raise(SIGTERM);
    return IsReadable(signals.get());
  }));
}

TEST(TakeSignalsTest, ASignalThatTheParentHadIgnoredStaysIgnored) {
  EXPECT_TRUE(HoldsInChild([] {
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    const UniqueFd signals = *TakeSignals({SIGHUP, SIGTERM});
    raise(SIGHUP);
    if (IsReadable(signals.get())) return false;
    raise(SIGTERM);
    return IsReadable(signals.get());
  }));
}

TEST(InheritedSignalsTest, BlockedSignalsAreUnblockedAndChildrenCanBeWaitedFor) {
  EXPECT_TRUE(HoldsInChild([] {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    signal(SIGCHLD, SIG_IGN);
    ResetInheritedSignals();
    sigset_t now;
    sigprocmask(SIG_SETMASK, nullptr, &now);
    const pid_t child = fork();
    if (child == 0) _exit(3);
    int status = -1;
    return sigisemptyset(&now) == 1 && waitpid(child, &status, 0) == child &&
           WEXITSTATUS(status) == 3;
  }));
}

TEST(InheritedSignalsTest, AWriteBeyondTheFileSizeLimitIsAnError) {
  EXPECT_TRUE(HoldsInChild([] {
    const rlimit limit = {.rlim_cur = 0, .rlim_max = 0};
    setrlimit(RLIMIT_FSIZE, &limit);
    ResetInheritedSignals();
    FILE* const file = tmpfile();
    return file != nullptr && ftruncate(fileno(file), 4096) != 0 && errno == EFBIG;
  }));
}

TEST(OwnLimitsTest, TheSoftLimitOfOpenFilesIsRaisedToTheHardOne) {
  EXPECT_TRUE(HoldsInChild([] {
    const rlimit before = {.rlim_cur = 256, .rlim_max = 900};
    setrlimit(RLIMIT_NOFILE, &before);
    RaiseOpenFileLimit();
    rlimit now;
    getrlimit(RLIMIT_NOFILE, &now);
    return now.rlim_cur == 900;
  }));
}

std::string OomScoreAdj() {
  std::string text;
  std::ifstream("/proc/self/oom_score_adj") >> text;
  return text;
}

TEST(OwnLimitsTest, ThisProcessIsPreferredByTheOomKillerByAHundredThousandths) {
  EXPECT_TRUE(HoldsInChild([] {
    const std::string before = OomScoreAdj();
    BecomePreferredByOomKiller();
    const int expected = std::min(atoi(before.c_str()) + 100, 1000);
    return atoi(OomScoreAdj().c_str()) == expected;
  }));
}

}  // namespace
}  // namespace bulkhead
