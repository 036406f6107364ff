// usage: intruder PID
//
// Stands for an attacker who has taken over the device process PID: makes it try what it may not,
// by ptrace(2), and says how each attempt ended. The process does not survive. Needs root. Exit
// code 0: each attempt was refused, 1: one was not, or the process cannot be traced, 2: bad usage.
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "integration/escape/taken_over_process.h"

namespace bulkhead::integration {
namespace {

bool Refused(const char* attempt, int64_t result) {
  if (result >= 0) {
    printf("%-28s  SUCCEEDED\n", attempt);
  } else if (result == TakenOverProcess::kDied) {
    printf("%-28s  refused, and killed for it\n", attempt);
  } else {
    printf("%-28s  refused: %s\n", attempt, strerror(static_cast<int>(-result)));
  }
  return result < 0;
}

int Run(pid_t pid) {
  const absl::StatusOr<std::unique_ptr<TakenOverProcess>> process = TakenOverProcess::TakeOver(pid);
  if (!process.ok()) {
    fprintf(stderr, "intruder: process %d: %s\n", pid, process.status().ToString().c_str());
    return 1;
  }
  TakenOverProcess& device = **process;
  const uint64_t shadow = device.Put(absl::string_view("/etc/shadow", 12));
  const uint64_t kvm = device.Put(absl::string_view("/dev/kvm", 9));
  bool refused = Refused("read /etc/shadow", device.Call(SYS_openat, AT_FDCWD, shadow, O_RDONLY));
  refused &= Refused("open /dev/kvm", device.Call(SYS_openat, AT_FDCWD, kvm, O_RDWR));
  refused &= Refused("connect to the network", device.Call(SYS_socket, AF_INET, SOCK_STREAM, 0));
  return refused ? 0 : 1;
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  int pid = 0;
  if (argc != 2 || !absl::SimpleAtoi(argv[1], &pid) || pid <= 0) {
    fprintf(stderr, "usage: intruder PID\n");
    return 2;
  }
  return bulkhead::integration::Run(pid);
}
