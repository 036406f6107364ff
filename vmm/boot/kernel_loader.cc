#include "vmm/boot/kernel_loader.h"

#include <elf.h>
#include <linux/mman.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kBzImageMagicOffset = 0x202;
constexpr char kBzImageMagic[] = {'H', 'd', 'r', 'S'};
constexpr uint64_t kHugePageBytes = 2 << 20;
constexpr uint64_t kLeastHugePages = 8;
constexpr uint64_t kMostHugePages = 64;

}  // namespace

absl::StatusOr<LoadedKernel> LoadKernel(const BootFile& file, const GuestMemory& memory) {
  std::array<uint8_t, 4> magic = {};
  if (file.Contains(0, magic.size())) {
    RETURN_IF_ERROR(file.ReadAt(0, absl::MakeSpan(magic)));
    if (memcmp(magic.data(), ELFMAG, SELFMAG) == 0) return LoadElfKernel(file, memory);
  }
  if (file.Contains(kBzImageMagicOffset, magic.size())) {
    RETURN_IF_ERROR(file.ReadAt(kBzImageMagicOffset, absl::MakeSpan(magic)));
    if (memcmp(magic.data(), kBzImageMagic, sizeof(kBzImageMagic)) == 0) {
      return LoadBzImage(file, memory);
    }
  }
  return file.Error("not a kernel: neither an ELF file nor a bzImage");
}

void UseHugePages(const GuestMemory& memory, GuestAddress start, uint64_t size_bytes) {
  const GuestAddress first = (start + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
  // A damaged file may claim to need much.
  const uint64_t bounded_bytes = std::min(size_bytes, kMostHugePages * kHugePageBytes);
  const GuestAddress end = (start + bounded_bytes) & ~(kHugePageBytes - 1);
  if (end < first || end - first < kLeastHugePages * kHugePageBytes) return;
  uint8_t* host = memory.HostPointer(first, end - first);
  if (host == nullptr) return;
  // The kernel makes no huge page of a range that has no page at all: a read gives it one.
  for (uint64_t offset = 0; offset < end - first; offset += kHugePageBytes) {
    static_cast<void>(*static_cast<volatile uint8_t*>(host + offset));
  }
  madvise(host, end - first, MADV_COLLAPSE);  // if it fails, small pages stay
}

GuestAddress LowMemoryEnd(const GuestMemory& memory) {
  if (memory.ranges().empty() || memory.ranges().front().start != 0) return 0;
  return std::min<uint64_t>(memory.ranges().front().mapping.size(), layout::kHoleStart);
}

}  // namespace bulkhead::vmm
