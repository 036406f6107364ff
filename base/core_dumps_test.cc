#include "base/core_dumps.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <string>

#include "gtest/gtest.h"

namespace bulkhead {
namespace {

// What a process with these limits returns.
int InProcess(rlimit limit, const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    if (setrlimit(RLIMIT_CORE, &limit) != 0) _exit(99);
    _exit(body());
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int Dumpable() {
  ForbidOwnCoreDumps();
  return prctl(PR_GET_DUMPABLE);
}

TEST(CoreDumpsTest, AProcessCanForbidItsOwnWithAnyLimit) {
  EXPECT_EQ(InProcess({.rlim_cur = 1, .rlim_max = 1}, Dumpable), 0);
  EXPECT_EQ(InProcess({.rlim_cur = 0, .rlim_max = 0}, Dumpable), 0);
  EXPECT_EQ(InProcess({.rlim_cur = 0, .rlim_max = 1}, Dumpable), 0);
}

std::string Filter() {
  std::string text;
  std::getline(std::ifstream("/proc/self/coredump_filter"), text);
  return text;
}

TEST(CoreDumpsTest, WhereTheLimitCannotBeSetNoMemoryIsDumped) {
  EXPECT_EQ(InProcess({.rlim_cur = 0, .rlim_max = 0},
                      [] {
                        if (geteuid() == 0 && setuid(65534) != 0) return 2;
                        prctl(PR_SET_DUMPABLE, 1);  // as of a process that never was root
                        KeepMemoryOfChildrenOutOfCoreDumps();
                        return Filter() == "00000000" ? 0 : 3;
                      }),
            0);
}

TEST(CoreDumpsTest, WhereItCanBeSetDumpsAreAsBefore) {
  EXPECT_EQ(InProcess({.rlim_cur = 0, .rlim_max = 1},
                      [] {
                        const std::string before = Filter();
                        if (KeepMemoryOfChildrenOutOfCoreDumps()) return 2;
                        return Filter() == before ? 0 : 3;
                      }),
            0);
}

}  // namespace
}  // namespace bulkhead
