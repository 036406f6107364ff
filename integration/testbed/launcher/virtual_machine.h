#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_VIRTUAL_MACHINE_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_VIRTUAL_MACHINE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {

struct VirtualMachineConfig {
  std::string kernel;     // ELF vmlinux: no time is spent on unpacking it
  std::string initramfs;  // with the agent
  // A snapshot of SaveSnapshot(), to resume instead of booting; or empty. It fits only
  // the number of processors and the memory that it was made with.
  std::string snapshot;
  int cpus = 0;
  int memory_mib = 0;
  std::vector<std::string> writable_folders;  // at most kMaxShares
};

// A snapshot fits only the devices that it was made with, so this many shares are always there.
inline constexpr size_t kMaxShares = 4;

// A QEMU process in software emulation with the host's root as read-only 9p share.
// Killed and reaped by the destructor; killed by the kernel when this process dies. Uses no
// path of its own on the host. Thread-compatible; the creating thread must outlive it.
class VirtualMachine {
 public:
  // Errors: as fork(2), socketpair(2).
  static absl::StatusOr<VirtualMachine> Start(const VirtualMachineConfig& config);
  VirtualMachine(VirtualMachine&&) = default;
  ~VirtualMachine();

  // Non-blocking stream to and from the agent.
  int agent_fd() const { return agent_.get(); }
  // Non-blocking: kernel messages, and errors of QEMU itself.
  int console_fd() const { return console_.get(); }
  // Non-blocking: QEMU's control protocol (QMP).
  int control_fd() const { return control_.get(); }
  // Readable once QEMU has ended.
  int process_fd() const { return process_.fd(); }

 private:
  VirtualMachine(UniqueFd agent, UniqueFd console, UniqueFd control, PidFd process)
      : agent_(std::move(agent)),
        console_(std::move(console)),
        control_(std::move(control)),
        process_(std::move(process)) {}

  UniqueFd agent_;
  UniqueFd console_;
  UniqueFd control_;
  PidFd process_;
};

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_VIRTUAL_MACHINE_H_
