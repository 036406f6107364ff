#ifndef BULKHEAD_BASE_TESTING_PROCESSES_H_
#define BULKHEAD_BASE_TESTING_PROCESSES_H_

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace bulkhead {

// No process has this pid, so kill(2) answers ESRCH. (-1 would mean every process there is.)
inline constexpr pid_t kNoProcess = std::numeric_limits<pid_t>::max();

// Whether that process exists and is not a zombie.
inline bool IsAlive(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  return std::getline(stat, line) && line[line.rfind(')') + 2] != 'Z';
}

// The first child of the process's main thread; 0: it has none.
inline pid_t ChildOf(pid_t parent) {
  std::ifstream children(absl::StrCat("/proc/", parent, "/task/", parent, "/children"));
  pid_t child = 0;
  children >> child;
  return child;
}

// Runs `test` in a child process, which may change what a process has once: descriptors, limits,
// signals. `namespaces`: new ones that it gets, CLONE_NEW... bits. (The child may be unable to make
// them: ThreadSanitizer can give it a second thread, with which it may not enter a user namespace.)
inline bool HoldsInChild(const std::function<bool()>& test, int namespaces = 0) {
  const pid_t child =
      namespaces == 0 ? fork()
                      : static_cast<pid_t>(syscall(SYS_clone, SIGCHLD | namespaces, 0, 0, 0, 0));
  if (child == 0) _exit(test() ? 0 : 1);
  int status = -1;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_PROCESSES_H_
