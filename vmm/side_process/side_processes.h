#ifndef BULKHEAD_VMM_SIDE_PROCESS_SIDE_PROCESSES_H_
#define BULKHEAD_VMM_SIDE_PROCESS_SIDE_PROCESSES_H_

#include <stdint.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A side process has at most as many clients.
inline constexpr uint32_t kMaxSideClients = 1024;

// What a side process finds at its start.
struct SideProcessStart {
  int parent = -1;   // a pidfd of its parent (base/end_with_parent.h)
  int clients = -1;  // new clients come from here, as they do from SideProcess::clients
  // The clients that an earlier process has had, by index; -1: none.
  std::vector<int> earlier_clients = {};
};

// A process that does for the vmm what a locked-down vmm may not.
struct SideProcess {
  std::string name;  // for the log
  // Runs in the new process, a copy of the vmm, and does not return. An end with exit code 0 means
  // that the process is no longer needed.
  std::function<void(const SideProcessStart&)> run;
  // What `run` uses. All other descriptors are closed, but for standard error.
  std::vector<std::shared_ptr<const UniqueFd>> descriptors = {};
  // Of those processes that have clients: a SOCK_SEQPACKET socket whose other end the vmm has. It
  // sends a packet for each client: a uint32_t, which is the client's index, and a socket. A client
  // takes the place of the one with the same index.
  UniqueFd clients = UniqueFd();
};

// Starts side processes, and starts them again when they die, with the clients that they had. This
// does the keeper, a process that is forked before the vmm gives up its rights, and which does
// nothing else: it reads only what the vmm sends. The pauses before a start double from 100 ms to
// 10 s, and begin anew after a process that has lived for 10 s. If the keeper dies, so do all side
// processes, and they are not replaced.
//
// Thread-compatible.
class SideProcesses {
 public:
  // Call it before this process gives up its rights, on a thread that lasts. Null: there are none.
  // Errors: as fork(2), pidfd_open(2).
  static absl::StatusOr<std::unique_ptr<SideProcesses>> Start(std::vector<SideProcess> processes);
  // Kills them all, and waits for the keeper.
  ~SideProcesses();

 private:
  SideProcesses(pid_t keeper, UniqueFd keeper_process)
      : keeper_(keeper), keeper_process_(std::move(keeper_process)) {}

  const pid_t keeper_;
  const UniqueFd keeper_process_;  // kill(2) is not for a vmm that is locked down
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SIDE_PROCESS_SIDE_PROCESSES_H_
