#ifndef BULKHEAD_VMM_CONFIG_VM_SPEC_H_
#define BULKHEAD_VMM_CONFIG_VM_SPEC_H_

#include <stdint.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "vmm/config/balloon_switch.h"
#include "vmm/config/console_log_file.h"
#include "vmm/config/host_file.h"
#include "vmm/config/link_switch.h"
#include "vmm/config/program_file.h"
#include "vmm/config/program_folders.h"
#include "vmm/config/program_report.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/sandbox/cgroup.h"
#include "vmm/sandbox/process_sandbox.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {

// A network by the program passt (vmm/user_net).
struct UserNetSpec {
  std::string program;                // its path
  std::vector<std::string> forwards;  // TCP ports of the host: "127.0.0.1/8022:22"
  bool host_loopback = false;         // the guest may use what listens on the host's loopback
};

// A program that serves a device over vhost-user, for vmm/back_end to start.
struct BackEndSpec {
  struct File {
    std::string path;  // absolute
    bool read_only = false;
  };
  std::string binary;  // an absolute path
  std::vector<std::string> args;
  std::vector<File> files;  // that it sees
  bool serves_folder = false;
};

// An opened resource of a device.
struct ResourceSpec {
  std::string name;
  std::unique_ptr<HostFile> file = {};
  bool read_only = false;  // the file
  // Instead of `file`: a console, which the machine creates and connects.
  bool is_console = false;
  bool has_standard_streams = false;  // the console
  std::optional<ConsoleLogFile> console_log = {};
  // Instead of `file`: a link to the vmm, which the machine creates and connects.
  bool is_vm_link = false;
  // Instead of `file`: a network, which vmm/user_net makes.
  std::optional<UserNetSpec> user_net = {};
  // Instead of `file`: an error link (proto/error_link.h), which the machine creates.
  bool is_error_link = false;
  // Instead of `file`: the path of a unix socket, to which vmm/connector connects.
  std::string socket_path = {};
  // Instead of `file`: the program to which vmm/connector connects, and where it listens
  // (O_PATH), once vmm/back_end has started it.
  std::shared_ptr<const BackEndSpec> back_end = nullptr;
  std::shared_ptr<const UniqueFd> socket_anchor = nullptr;
  // If set, instead of `file`: returns the descriptor for the next process of the device, or -1.
  // Called before each attachment, once the previous process is dead. The descriptor stays the
  // callee's and is valid until the next call.
  std::function<int()> connect = {};
};

// What happens to guest accesses while the device has no process (proto/vm_config.proto).
enum class AccessPolicy { kWait, kAllOnes, kPauseVm };

// What the vmm does when a device reports that the guest has crashed or hangs
// (proto/vm_config.proto).
enum class FaultAction { kExit, kReboot, kPause, kReport };

// What the supervisor does when a device's process ends by itself.
struct RestartSpec {
  enum class Policy { kNever, kOnFailure, kAlways };
  Policy policy = Policy::kAlways;
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(10);
  int max_crashes = 5;  // within crash_window; -1: any number
  absl::Duration crash_window = absl::Seconds(60);
};

struct HeartbeatSpec {
  absl::Duration interval = absl::Seconds(1);       // zero: no heartbeats
  uint32_t misses = 5;                              // in a row: a hang
  absl::Duration stall_timeout = absl::Seconds(5);  // of an access, meanwhile; zero: for ever
};

// One device process to run.
struct DeviceSpec {
  std::string name;
  ProgramFile binary;
  // From which a client may choose another one. It may always choose the path of `binary`.
  std::shared_ptr<const ProgramFolders> binary_folders = std::make_shared<const ProgramFolders>();
  std::vector<std::string> args;
  std::vector<ResourceSpec> resources;
  absl::Duration access_timeout;
  AccessPolicy access_policy = AccessPolicy::kWait;
  RestartSpec restart;
  HeartbeatSpec heartbeat;
  bool spare = false;                                // keep a second process started and waiting
  absl::Duration max_poll = absl::Microseconds(50);  // before either side sleeps
  uint32_t pci_slot = 0;                             // 1 to 31; 0 for "the next free one"
  ProcessSandbox sandbox;
  CgroupLimits cgroup_limits = {};
  std::shared_ptr<LinkSwitch> link = {};        // of a network device
  std::shared_ptr<BalloonSwitch> balloon = {};  // of the VM's balloon
  // Of the program that serves it, if the vmm starts that.
  std::shared_ptr<const ProgramReport> program = {};
};

// How the guest's kernel is found on one of its disks (vmm/machine/disk_boot.h).
struct DiskBootSpec {
  std::string device;  // the disk's name
  std::string path;
  UniqueFd disk;        // read-only
  ProgramFile program;  // the boot loader
  std::string entry;    // of the menu; empty: the one that the disk says
  std::string cmdline;  // instead of the entry's; empty: the entry's
  std::string cmdline_append;
  bool has_console = false;   // the VM has a serial port
  uint64_t memory_bytes = 0;  // of the guest
  ProcessSandbox sandbox = {};
};

// A validated configuration: every file is open, every limit holds.
struct VmSpec {
  std::string name;
  bool name_given = false;  // by the user; else any free name will do
  std::string kernel_path;
  UniqueFd kernel;
  std::string initrd_path;
  UniqueFd initrd;  // not ok(): none
  std::string cmdline;
  std::optional<DiskBootSpec> disk_boot;  // instead of kernel, initrd and cmdline
  uint64_t memory_bytes = 0;              // a multiple of 1 MiB
  RamBacking ram_backing;
  bool prefault_ram = false;  // all of it is taken from the host before the guest starts
  uint32_t cpus = 0;
  std::vector<DeviceSpec> devices;
  bool uses_standard_streams = false;  // a console does
  bool reboot_on_reset = true;         // else the VM ends when the guest asks for a reset
  bool reboot_on_crash = false;        // else the VM ends at a triple fault
  FaultAction on_panic = FaultAction::kExit;
  FaultAction on_watchdog = FaultAction::kReboot;
  bool has_control = true;                       // a control plane
  std::string control_socket;                    // its path; empty: the default place of `name`
  std::string monitor_socket;                    // the path of the read-only one; empty: none
  std::optional<gid_t> monitor_group;            // that may use it; else only the user and root
  SandboxLayers sandbox = SandboxLayers::Off();  // of devices
  std::string cgroup;                            // the folder of the VM's; empty: a delegated one
  uint32_t first_uid = 0;                        // of devices; 0: the vmm chooses
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_VM_SPEC_H_
