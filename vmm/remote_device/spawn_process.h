#ifndef BULKHEAD_VMM_REMOTE_DEVICE_SPAWN_PROCESS_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_SPAWN_PROCESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/pid_fd.h"

namespace bulkhead::vmm {

// A process to start.
struct ProcessSpec {
  std::string binary;                    // a path
  std::vector<std::string> args;         // after argv[0], which is `binary`
  std::vector<std::string> environment;  // "NAME=value", and nothing else
  // Become descriptors 0, 1, 2, ... of the process, which has no others. Borrowed.
  std::vector<int> descriptors;
};

// Starts a process without copying this one's page tables: the vmm is large and has many
// threads. The process begins in a session of its own (the terminal's signals are for the vmm
// alone), with no signal blocked or ignored, and is killed when the *thread* that called this
// ends: call it from one that lives as long as the vmm wants its devices to.
//
// Thread-safe. Blocks until the new program runs. Errors: as open(2) and execve(2), naming the
// binary.
absl::StatusOr<PidFd> SpawnProcess(const ProcessSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_SPAWN_PROCESS_H_
