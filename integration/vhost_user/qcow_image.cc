#include "integration/vhost_user/qcow_image.h"

#include <stddef.h>

namespace bulkhead::integration {

std::string QcowOver(const std::string& backing, uint64_t disk_bytes) {
  constexpr uint64_t kCluster = 65536;
  std::string image(4 * kCluster, '\0');
  const auto put = [&image](size_t at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) image[at + i] = static_cast<char>(value >> 8 * (bytes - 1 - i));
  };
  constexpr size_t kBackingName = 72;
  put(0, 0x514649fb, 4);  // magic
  put(4, 2, 4);
  put(8, kBackingName, 8);
  put(16, backing.size(), 4);
  put(20, 16, 4);  // bits of a cluster's size
  put(24, disk_bytes, 8);
  put(36, 1, 4);             // entries of the table at
  put(40, 3 * kCluster, 8);  // this place
  put(48, kCluster, 8);      // reference counts: their table
  put(56, 1, 4);
  image.replace(kBackingName, backing.size(), backing);
  put(kCluster, 2 * kCluster, 8);
  for (size_t i = 0; i < 4; ++i) put(2 * kCluster + 2 * i, 1, 2);
  return image;
}

}  // namespace bulkhead::integration
