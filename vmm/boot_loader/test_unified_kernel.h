#ifndef BULKHEAD_VMM_BOOT_LOADER_TEST_UNIFIED_KERNEL_H_
#define BULKHEAD_VMM_BOOT_LOADER_TEST_UNIFIED_KERNEL_H_

#include <stddef.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "vmm/boot_loader/test_disks.h"

namespace bulkhead::boot_loader {

using PeSections = std::vector<std::pair<std::string, std::string>>;

// A PE file for x86-64 with these sections, as an EFI stub has them; what they have on the disk is
// padded to 512 bytes.
inline std::string UnifiedKernelImage(const PeSections& sections) {
  constexpr size_t kPe = 0x80;
  constexpr size_t kOptionalHeader = 240;
  const auto round_up = [](size_t bytes) { return (bytes + 511) / 512 * 512; };
  const size_t table = kPe + 24 + kOptionalHeader;
  std::string image(round_up(table + sections.size() * 40), '\0');
  image.replace(0, 2, "MZ");
  Put(image, 0x3c, kPe, 4);
  image.replace(kPe, 2, "PE");
  Put(image, kPe + 4, 0x8664, 2);
  Put(image, kPe + 6, sections.size(), 2);
  Put(image, kPe + 20, kOptionalHeader, 2);
  for (size_t i = 0; i < sections.size(); ++i) {
    const auto& [name, bytes] = sections[i];
    const size_t header = table + i * 40;
    image.replace(header, std::min<size_t>(name.size(), 8), name, 0, 8);
    Put(image, header + 8, bytes.size(), 4);
    Put(image, header + 16, round_up(bytes.size()), 4);
    Put(image, header + 20, image.size(), 4);
    image += bytes;
    image.resize(round_up(image.size()), '\xcc');
  }
  return image;
}

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_TEST_UNIFIED_KERNEL_H_
