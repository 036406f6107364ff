#include "vmm/side_process/side_processes.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "base/end_with_parent.h"
#include "base/errno_status.h"
#include "vmm/side_process/keeper.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<SideProcesses>> SideProcesses::Start(
    std::vector<SideProcess> processes) {
  if (processes.empty()) return std::unique_ptr<SideProcesses>();
  const UniqueFd self = OwnPidFd();
  if (!self.ok()) return ErrnoToStatus(errno, "pidfd_open of the vmm");
  const pid_t keeper = fork();
  if (keeper < 0) return ErrnoToStatus(errno, "starting the keeper of side processes: fork");
  if (keeper == 0) KeepSideProcesses(self.get(), processes);
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, keeper, 0)));
  if (!process.ok()) {
    const absl::Status status = ErrnoToStatus(errno, "pidfd_open of the keeper");
    kill(keeper, SIGKILL);
    waitpid(keeper, nullptr, 0);
    return status;
  }
  return absl::WrapUnique(new SideProcesses(keeper, std::move(process)));
}

SideProcesses::~SideProcesses() {
  syscall(SYS_pidfd_send_signal, keeper_process_.get(), SIGKILL, nullptr, 0);
  while (waitpid(keeper_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace bulkhead::vmm
