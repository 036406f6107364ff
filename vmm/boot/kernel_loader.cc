#include "vmm/boot/kernel_loader.h"

#include <elf.h>
#include <string.h>

#include <algorithm>
#include <array>

#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kBzImageMagicOffset = 0x202;
constexpr char kBzImageMagic[] = {'H', 'd', 'r', 'S'};

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

GuestAddress LowMemoryEnd(const GuestMemory& memory) {
  if (memory.ranges().empty() || memory.ranges().front().start != 0) return 0;
  return std::min<uint64_t>(memory.ranges().front().mapping.size(), layout::kHoleStart);
}

}  // namespace bulkhead::vmm
