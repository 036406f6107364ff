#ifndef BULKHEAD_VMM_SANDBOX_PROCESS_SANDBOX_H_
#define BULKHEAD_VMM_SANDBOX_PROCESS_SANDBOX_H_

#include <linux/filter.h>
#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <vector>

#include "vmm/sandbox/cgroup.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {

// What confines one process.
struct ProcessSandbox {
  SandboxLayers layers = SandboxLayers::Off();
  // Of the layer "uid". Without it the process keeps the vmm's.
  uid_t uid = 0;
  gid_t gid = 0;
  // Of the layer "rlimits".
  uint64_t max_address_space_bytes = ~uint64_t{0};
  // Of the layer "seccomp": what SECCOMP_SET_MODE_FILTER takes.
  std::vector<sock_filter> filter = {};
  // The control group that it is in; null: that of the launcher.
  std::shared_ptr<const Cgroup> cgroup = nullptr;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_PROCESS_SANDBOX_H_
