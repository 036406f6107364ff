#ifndef BULKHEAD_VMM_CONFIG_DISK_FLAG_H_
#define BULKHEAD_VMM_CONFIG_DISK_FLAG_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/config/command_line.h"

namespace bulkhead::vmm {

// Adds the device that the value of --disk describes: virtio_blk over a raw file, or vhost_user
// with qemu-storage-daemon as its back end. Errors: InvalidArgument, for people.
absl::Status ParseDisk(absl::string_view text, CommandLine& line);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_DISK_FLAG_H_
