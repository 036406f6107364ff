#ifndef BULKHEAD_VMM_BOOT_KERNEL_LOADER_H_
#define BULKHEAD_VMM_BOOT_KERNEL_LOADER_H_

#include <stdint.h>

#include <vector>

#include "absl/status/statusor.h"
#include "base/guest_memory.h"
#include "vmm/boot/boot_file.h"

namespace bulkhead::vmm {

// How the first vCPU enters the kernel.
enum class EntryProtocol {
  kPvh,      // 32-bit protected mode, paging off (Xen's x86/HVM direct boot ABI)
  kLinux64,  // long mode, identity-mapped (Linux: Documentation/arch/x86/boot.rst, 64-bit)
};

// A kernel in guest memory.
struct LoadedKernel {
  EntryProtocol protocol = EntryProtocol::kPvh;
  GuestAddress entry = 0;
  // The range of its segments and of the space that it needs to unpack itself.
  GuestAddress start = 0;
  GuestAddress end = 0;
  // The initrd must end at or below this.
  GuestAddress initrd_limit = 0;
  // The longest command line that it reads, without the terminating zero.
  uint64_t max_command_line_bytes = 0;
  // kLinux64: the setup header as in the file, from kSetupHeaderOffset on.
  std::vector<uint8_t> setup_header;
};

// Where a bzImage's setup header starts, both in the file and in the zero page.
inline constexpr uint64_t kSetupHeaderOffset = 0x1f1;

// Loads a kernel into `memory`, which must be all zeroes: an ELF file (32 or 64 bits) with a PVH
// entry note, or a bzImage with a 64-bit entry point. Uses no memory below layout::kHighMemory
// and none above the hole.
// Errors: InvalidArgument (the file is neither, is damaged, or does not fit into the guest's
// memory), or as pread(2). `memory` may have been changed.
absl::StatusOr<LoadedKernel> LoadKernel(const BootFile& file, const GuestMemory& memory);

// The two formats; LoadKernel() chooses by the file's first bytes.
absl::StatusOr<LoadedKernel> LoadElfKernel(const BootFile& file, const GuestMemory& memory);
absl::StatusOr<LoadedKernel> LoadBzImage(const BootFile& file, const GuestMemory& memory);

// Asks the host for huge pages behind the whole multiples of 2 MiB in [start, start + size_bytes),
// which must be RAM that nothing was written to yet: one page fault each, in the vmm and in the
// guest, instead of 512. For a kernel's range, which the guest will use, or soon give to its
// programs. Does nothing if there are fewer than eight, and no more than 64; a host without huge
// pages uses small ones.
void UseHugePages(const GuestMemory& memory, GuestAddress start, uint64_t size_bytes);

// The end of the RAM that starts at address 0. Kernels and initrds are placed below it.
GuestAddress LowMemoryEnd(const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_KERNEL_LOADER_H_
