#ifndef BULKHEAD_VMM_SANDBOX_SANDBOX_DESCRIPTORS_H_
#define BULKHEAD_VMM_SANDBOX_SANDBOX_DESCRIPTORS_H_

namespace bulkhead::vmm {

// The descriptor of the program that a sandboxed process becomes by execveat(2). common_policy.txt
// allows execveat() of this number alone, and only until the device has started.
inline constexpr int kBinaryFd = 1023;

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_SANDBOX_DESCRIPTORS_H_
