#ifndef BULKHEAD_TOOLS_VMCTL_STATUS_TEXT_H_
#define BULKHEAD_TOOLS_VMCTL_STATUS_TEXT_H_

#include <stddef.h>

#include <string>

#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/vm_list.pb.h"

namespace bulkhead::vmctl {

// `vmctl status`: one "Name  value" a line.
std::string StatusDetails(const v1::VmStatus& status, absl::TimeZone zone, bool color);

// `vmctl list`: one line a VM. `width` and `color` as in Table::Text().
std::string VmTable(const VmList& list, size_t width, bool color);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_STATUS_TEXT_H_
