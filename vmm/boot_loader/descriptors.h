#ifndef BULKHEAD_VMM_BOOT_LOADER_DESCRIPTORS_H_
#define BULKHEAD_VMM_BOOT_LOADER_DESCRIPTORS_H_

#include <stdint.h>

namespace bulkhead::boot_loader {

// The open files of the boot loader's process, beside its standard streams.
inline constexpr int kDiskFd = 3;  // read-only
inline constexpr int kFilterFd =
    4;  // a seccomp filter to install first (sock_filter); may be empty
// Memory files that cannot grow: their size is the most that the vmm takes.
inline constexpr int kReportFd = 5;  // proto/boot_report.proto
inline constexpr int kKernelFd = 6;  // truncated to the kernel
inline constexpr int kInitrdFd = 7;  // truncated to the initrds, each from a multiple of four bytes

inline constexpr uint64_t kReportBytes = 256 << 10;
// The most that a kernel or the initrds may have.
inline constexpr uint64_t kMaxKernelBytes = 512 << 20;
inline constexpr uint64_t kMaxInitrdBytes = uint64_t{2} << 30;

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_DESCRIPTORS_H_
