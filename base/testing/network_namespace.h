#ifndef BULKHEAD_BASE_TESTING_NETWORK_NAMESPACE_H_
#define BULKHEAD_BASE_TESTING_NETWORK_NAMESPACE_H_

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace bulkhead {

// Puts this process, which has one thread, into a network namespace of its own, where it may make
// TAPs. Returns what the host lacks for that, or "".
inline std::string EnterNetworkNamespace() {
  const int flags = CLONE_NEWNET | (geteuid() == 0 ? 0 : CLONE_NEWUSER);
  if (unshare(flags) != 0) {
    return absl::StrCat("this test needs a network namespace: ", strerror(errno));
  }
  // In the testbed nothing else loads it.
  (void)!system("PATH=$PATH:/usr/sbin:/sbin modprobe tun 2>/dev/null");
  if (access("/dev/net/tun", R_OK | W_OK) != 0) {
    return absl::StrCat("this test needs /dev/net/tun (module tun): ", strerror(errno));
  }
  return "";
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_NETWORK_NAMESPACE_H_
