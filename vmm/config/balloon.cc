#include "vmm/config/balloon.h"

#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {

std::string ProblemOfBalloon(const VmSpec& spec) {
  // A hole of a small page frees nothing there, and a large one gives the page back to the pool,
  // from which the guest may not get it again.
  if (spec.ram_backing.is_of_hugetlbfs()) {
    return "guest memory of the host's pool of huge pages cannot be freed; give memory_backing "
           "hugepages: \"thp\", or none";
  }
  // Guest memory that comes back may be charged to the device that touches it first.
  for (const DeviceSpec& device : spec.devices) {
    if (device.cgroup_limits.memory_bytes == 0) continue;
    return absl::StrCat("device \"", device.name,
                        "\" has a limit of memory (cgroup), which cannot be combined with a "
                        "balloon: it would be charged for guest memory that comes back");
  }
  return "";
}

}  // namespace bulkhead::vmm
