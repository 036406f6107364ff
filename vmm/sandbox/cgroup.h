#ifndef BULKHEAD_VMM_SANDBOX_CGROUP_H_
#define BULKHEAD_VMM_SANDBOX_CGROUP_H_

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// Limits of a control group (Documentation/admin-guide/cgroup-v2.rst). 0: the kernel's default.
struct CgroupLimits {
  uint64_t memory_bytes = 0;  // memory.max; what exceeds it is killed by the kernel
  uint32_t cpu_weight = 0;    // 1 to 10,000
  uint32_t io_weight = 0;     // 1 to 10,000
  uint32_t processes = 0;     // pids.max: processes and threads

  bool empty() const {
    return memory_bytes == 0 && cpu_weight == 0 && io_weight == 0 && processes == 0;
  }
};

// A control group of one device, which is removed at the end of the VM
// (Launcher::RemoveGroupsAtEnd()). Thread-safe.
class Cgroup {
 public:
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;

  // For clone3(CLONE_INTO_CGROUP).
  int fd() const { return folder_.get(); }
  const std::string& path() const { return path_; }
  // Kills all processes in it.
  void Kill() const;
  // How many processes in it the kernel has killed because of the limit of memory.
  uint64_t OomKills() const;

 private:
  friend class CgroupTree;

  Cgroup(UniqueFd folder, UniqueFd kill, std::string path)
      : folder_(std::move(folder)), kill_(std::move(kill)), path_(std::move(path)) {}

  const UniqueFd folder_;
  const UniqueFd kill_;
  const std::string path_;
};

// A subtree of control groups that the host has given to the vmm, which puts itself and each device
// into one of their own. Thread-compatible.
class CgroupTree {
 public:
  // The control group of this process, if systemd has delegated it (Delegate=yes); empty: it has
  // not, or this host has no cgroup v2.
  static std::string DelegatedPath();
  // cgroup.procs of the group that this process is in now; not ok(): it may not be opened.
  static UniqueFd OpenOrigin();
  // The names of the folders.
  static std::string VmmGroup(absl::string_view name);
  static std::string DeviceGroup(absl::string_view name, absl::string_view device);

  // Makes the group `name`-vmm in the folder `path` and moves this process and `helpers` into it.
  // Errors: one line for the operator.
  static absl::StatusOr<std::unique_ptr<CgroupTree>> Create(const std::string& path,
                                                            absl::string_view name,
                                                            const std::vector<pid_t>& helpers);

  // A group for a device. Errors: one line for the operator, naming the limit that cannot be set.
  absl::StatusOr<std::shared_ptr<const Cgroup>> Add(absl::string_view device,
                                                    const CgroupLimits& limits) const;

 private:
  CgroupTree(std::string path, std::string name) : path_(std::move(path)), name_(std::move(name)) {}

  const std::string path_;
  const std::string name_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_CGROUP_H_
