#ifndef BULKHEAD_VMM_SANDBOX_SECCOMP_VIOLATION_H_
#define BULKHEAD_VMM_SANDBOX_SECCOMP_VIOLATION_H_

#include <linux/seccomp.h>

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// What a process tried that its seccomp filter does not allow, for people: "system call
// socket(AF_INET=0x2, 0x1, 0x0) of thread 1234 (virtio-blk)". Only what the notification itself
// has: pointers are shown, not followed. `thread_name`: printable; empty: unknown. Thread-safe.
std::string DescribeViolation(const seccomp_notif& notification, absl::string_view thread_name);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_SECCOMP_VIOLATION_H_
