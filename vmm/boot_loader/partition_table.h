#ifndef BULKHEAD_VMM_BOOT_LOADER_PARTITION_TABLE_H_
#define BULKHEAD_VMM_BOOT_LOADER_PARTITION_TABLE_H_

#include <stdint.h>

#include <vector>

#include "vmm/boot_loader/disk.h"

namespace bulkhead::boot_loader {

struct Partition {
  uint32_t number = 0;  // from 1, as Linux and GRUB count
  uint64_t start_bytes = 0;
  uint64_t size_bytes = 0;
};

struct PartitionTable {
  enum class Kind { kNone, kMbr, kGpt };
  Kind kind = Kind::kNone;
  // Each lies within the disk; at most 128.
  std::vector<Partition> partitions;
};

// Reads a GPT (the first, or else the backup, with valid checksums) or an MBR with its logical
// partitions. Partitions that do not lie within the disk are left out.
PartitionTable ReadPartitionTable(const Disk& disk);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_PARTITION_TABLE_H_
