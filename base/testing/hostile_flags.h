#ifndef BULKHEAD_BASE_TESTING_HOSTILE_FLAGS_H_
#define BULKHEAD_BASE_TESTING_HOSTILE_FLAGS_H_

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/testing/processes.h"

namespace bulkhead {

// A process sets all that it can on these open files, which it shares with this process, and dies:
// this process is to get `signal` when something happens on one of them. False: it could not.
inline bool LeaveHostileFlags(const std::vector<int>& fds, int signal) {
  return HoldsInChild([&] {
    for (const int fd : fds) {
      if (fcntl(fd, F_SETOWN, getppid()) != 0 || fcntl(fd, F_SETSIG, signal) != 0 ||
          fcntl(fd, F_SETFL, O_ASYNC | O_APPEND) != 0) {
        return false;
      }
    }
    return true;
  });
}

// What is left of that, for a failure's message. Empty: nothing.
inline std::string HostileFlagsOf(int fd) {
  std::string left;
  if (fcntl(fd, F_GETOWN) != 0) absl::StrAppend(&left, " owner");
  if (fcntl(fd, F_GETSIG) != 0) absl::StrAppend(&left, " signal");
  if ((fcntl(fd, F_GETFL) & (O_ASYNC | O_APPEND)) != 0) absl::StrAppend(&left, " flags");
  return left;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_HOSTILE_FLAGS_H_
