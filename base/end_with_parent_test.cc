#include "base/end_with_parent.h"

#include <poll.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "base/pipe.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

// What is written until all writers have ended.
std::string ReadAll(int fd) {
  std::string all;
  char bytes[16];
  ssize_t size;
  while ((size = read(fd, bytes, sizeof(bytes))) > 0) all.append(bytes, static_cast<size_t>(size));
  return all;
}

TEST(EndWithParentTest, AProcessWhoseParentWasDeadBeforeEnds) {
  Pipe steps = CreatePipe().value();
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    const UniqueFd self = OwnPidFd();
    if (fork() != 0) _exit(0);
    pollfd dead = {.fd = self.get(), .events = POLLIN, .revents = 0};
    poll(&dead, 1, -1);
    (void)!write(steps.write_end.get(), "a", 1);
    EndWithParent(self.get());
    (void)!write(steps.write_end.get(), "b", 1);
    _exit(0);
  }
  steps.write_end.reset();
  waitpid(parent, nullptr, 0);
  EXPECT_EQ(ReadAll(steps.read_end.get()), "a");
}

TEST(EndWithParentTest, AProcessLivesAsLongAsItsParent) {
  Pipe steps = CreatePipe().value();
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    const UniqueFd self = OwnPidFd();
    if (fork() == 0) {
      EndWithParent(self.get());
      (void)!write(steps.write_end.get(), "a", 1);
    }
    while (true) pause();
  }
  steps.write_end.reset();
  char step = 0;
  ASSERT_EQ(read(steps.read_end.get(), &step, 1), 1) << "it lives while its parent does";
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  EXPECT_EQ(ReadAll(steps.read_end.get()), "");
}

}  // namespace
}  // namespace bulkhead
