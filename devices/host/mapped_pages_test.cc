#include "devices/host/mapped_pages.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/guest_memory.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::devices {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kStep = 16 * kMiB;

// Of shared memory, in this process's page tables.
uint64_t MappedBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    uint64_t kib = 0;
    if (word == "RssShmem:" && status >> kib) return kib * 1024;
  }
  return 0;
}

GuestMemory Memory(uint64_t size_bytes) {
  const UniqueFd fd = *CreateMemfd("ram", size_bytes);
  std::vector<GuestMemory::Range> ranges;
  for (const uint64_t start : {uint64_t{0}, size_bytes / 2}) {
    MemoryMapping mapping =
        *MemoryMapping::Map(fd.get(), start, size_bytes / 2, MemoryMapping::Protection::kReadWrite);
    ranges.push_back({2 * start, std::move(mapping)});
  }
  return *GuestMemory::Create(std::move(ranges));
}

// Uses all of it, page by page; returns the most that was mapped.
uint64_t UseAll(const GuestMemory& memory, MappedPages& pages, uint8_t value) {
  uint64_t most = 0;
  for (const GuestMemory::Range& range : memory.ranges()) {
    for (uint64_t offset = 0; offset < range.mapping.size(); offset += kStep) {
      for (uint64_t i = offset; i < offset + kStep; i += 4096) range.mapping.data()[i] = value;
      pages.Used(kStep);
      most = std::max(most, MappedBytes());
    }
  }
  return most;
}

TEST(MappedPagesTest, AProcessNeverHasManyPagesAndLosesNoByte) {
  const uint64_t before = MappedBytes();
  const GuestMemory memory = Memory(2 * MappedPages::kMaxBytes);
  MappedPages pages(memory, /*are_huge=*/false);
  for (const uint8_t value : {1, 2}) {
    EXPECT_LE(UseAll(memory, pages, value), before + MappedPages::kMaxBytes + kStep);
  }
  for (const GuestMemory::Range& range : memory.ranges()) {
    for (uint64_t i = 0; i < range.mapping.size(); i += 4096) {
      ASSERT_EQ(range.mapping.data()[i], 2);
    }
  }
}

TEST(MappedPagesTest, HugePagesStay) {
  const uint64_t before = MappedBytes();
  const GuestMemory memory = Memory(2 * MappedPages::kMaxBytes);
  MappedPages pages(memory, /*are_huge=*/true);
  EXPECT_GE(UseAll(memory, pages, 1), before + 2 * MappedPages::kMaxBytes);
}

}  // namespace
}  // namespace bulkhead::devices
