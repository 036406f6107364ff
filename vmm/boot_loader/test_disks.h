#ifndef BULKHEAD_VMM_BOOT_LOADER_TEST_DISKS_H_
#define BULKHEAD_VMM_BOOT_LOADER_TEST_DISKS_H_

#include <stdint.h>
#include <string.h>
#include <zlib.h>

#include <algorithm>
#include <string>
#include <vector>

// Disks with partition tables, for tests. Sectors have 512 bytes.
namespace bulkhead::boot_loader {

inline constexpr size_t kTestDiskBytes = 300 * 512;

inline void Put(std::string& bytes, size_t offset, uint64_t value, size_t size) {
  memcpy(&bytes[offset], &value, size);  // little-endian, as this machine
}

struct MbrPart {
  uint8_t type;
  uint32_t first_sector, sectors;
};
inline void PutMbr(std::string& bytes, size_t sector, const std::vector<MbrPart>& parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const size_t entry = sector * 512 + 446 + i * 16;
    Put(bytes, entry + 4, parts[i].type, 1);
    Put(bytes, entry + 8, parts[i].first_sector, 4);
    Put(bytes, entry + 12, parts[i].sectors, 4);
  }
  Put(bytes, sector * 512 + 510, 0xaa55, 2);
}
inline std::string MbrDisk(const std::vector<MbrPart>& parts) {
  std::string bytes(kTestDiskBytes, '\0');
  PutMbr(bytes, 0, parts);
  return bytes;
}

// Sets the checksums of the GPT header in sector `lba`, over what it says, and its own place.
inline void SealGpt(std::string& bytes, size_t lba = 1) {
  const auto get = [&](size_t offset) {
    uint32_t value;
    memcpy(&value, &bytes[lba * 512 + offset], sizeof(value));
    return value;
  };
  const auto crc = [&](size_t from, size_t size) {
    from = std::min(from, bytes.size());
    return crc32(0, reinterpret_cast<const Bytef*>(&bytes[from]),
                 static_cast<uInt>(std::min(size, bytes.size() - from)));
  };
  Put(bytes, lba * 512 + 24, lba, 8);
  Put(bytes, lba * 512 + 88, crc(size_t{get(72)} * 512, size_t{get(80)} * get(84)), 4);
  Put(bytes, lba * 512 + 16, 0, 4);
  Put(bytes, lba * 512 + 16, crc(lba * 512, get(12)), 4);
}

struct GptPart {
  uint32_t number;
  uint64_t first_sector, sectors;
};
inline std::string GptDisk(const std::vector<GptPart>& parts, size_t size = kTestDiskBytes) {
  std::string bytes(size, '\0');
  PutMbr(bytes, 0, {{0xee, 1, static_cast<uint32_t>(size / 512 - 1)}});
  memcpy(&bytes[512], "EFI PART", 8);
  Put(bytes, 512 + 12, 92, 4);
  Put(bytes, 512 + 72, 2, 8);
  Put(bytes, 512 + 80, 128, 4);
  Put(bytes, 512 + 84, 128, 4);
  for (const GptPart& part : parts) {
    const size_t entry = 1024 + (part.number - 1) * 128;
    Put(bytes, entry, 1, 8);
    Put(bytes, entry + 32, part.first_sector, 8);
    Put(bytes, entry + 40, part.first_sector + part.sectors - 1, 8);
  }
  SealGpt(bytes);
  return bytes;
}

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_TEST_DISKS_H_
