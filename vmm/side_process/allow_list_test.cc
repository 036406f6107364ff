#include "vmm/side_process/allow_list.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr AllowedCall kCalls[] = {
    {SYS_socket, 0, AF_UNIX}, {SYS_socket, 0, AF_INET}, {SYS_getpid}, {SYS_exit_group}};

// The status with which a process ends that may make kCalls only.
int EndOf(const std::function<bool()>& what) {
  const pid_t process = fork();
  if (process == 0) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || !AllowOnly(kCalls)) _exit(2);
    _exit(what() ? 0 : 1);
  }
  int status = -1;
  waitpid(process, &status, 0);
  return status;
}

bool IsKilled(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS; }

TEST(AllowListTest, WhatIsListedIsPossible) {
  EXPECT_EQ(EndOf([] { return syscall(SYS_getpid) > 0; }), 0);
  EXPECT_EQ(EndOf([] {
              return socket(AF_UNIX, SOCK_STREAM, 0) >= 0 && socket(AF_INET, SOCK_STREAM, 0) >= 0 &&
                     syscall(SYS_getpid) > 0;
            }),
            0);
}

TEST(AllowListTest, WhatIsNotListedKills) {
  EXPECT_TRUE(IsKilled(EndOf([] { return syscall(SYS_getppid) > 0; })));
  EXPECT_TRUE(IsKilled(EndOf([] { return socket(AF_INET6, SOCK_STREAM, 0) >= 0; })));
  // The number of the call is compared after an argument has been.
  EXPECT_TRUE(IsKilled(EndOf([] { return syscall(SYS_close, SYS_getpid) == 0; })));
}

TEST(AllowListTest, TooManyCallsAreRefused) {
  const std::vector<AllowedCall> many(65, AllowedCall{SYS_getpid});
  errno = 0;
  EXPECT_FALSE(AllowOnly(many));
  EXPECT_EQ(errno, E2BIG);
}

}  // namespace
}  // namespace bulkhead::vmm
