#include "devices/host/mapped_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/guest_memory.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::devices {
namespace {

constexpr uint64_t kStep = MappedPages::kMaxBytes / 8;

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

// Uses all of it, or a page of each 64 KiB; returns the most that was mapped.
uint64_t UseAll(const GuestMemory& memory, MappedPages& pages, uint64_t stride,
                const std::function<void(uint8_t&)>& access) {
  uint64_t most = 0;
  for (const GuestMemory::Range& range : memory.ranges()) {
    for (uint64_t offset = 0; offset < range.mapping.size(); offset += kStep) {
      for (uint64_t i = offset; i < offset + kStep; i += stride) {
        uint8_t& byte = range.mapping.data()[i];
        const iovec buffer = {&byte, 4096};
        pages.Used(absl::MakeConstSpan(&buffer, 1));
        access(byte);
      }
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
    EXPECT_LE(UseAll(memory, pages, 4096, [value](uint8_t& byte) { byte = value; }),
              before + MappedPages::kMaxBytes + kStep);
  }
  for (const GuestMemory::Range& range : memory.ranges()) {
    for (uint64_t i = 0; i < range.mapping.size(); i += 4096) {
      ASSERT_EQ(range.mapping.data()[i], 2);
    }
  }
}

TEST(MappedPagesTest, APageThatIsReadMapsThoseAroundIt) {
  const GuestMemory memory = Memory(2 * MappedPages::kMaxBytes);
  MappedPages writes(memory, /*are_huge=*/true);
  UseAll(memory, writes, 4096, [](uint8_t& byte) { byte = 1; });
  for (const GuestMemory::Range& range : memory.ranges()) {
    madvise(range.mapping.data(), range.mapping.size(), MADV_DONTNEED);
  }
  const uint64_t before = MappedBytes();
  MappedPages pages(memory, /*are_huge=*/false);
  int sum = 0;
  const uint64_t most =
      UseAll(memory, pages, MappedPages::kWindowBytes, [&sum](uint8_t& byte) { sum += byte; });
  EXPECT_LE(most, before + MappedPages::kMaxBytes + kStep);
  EXPECT_EQ(sum, 2 * MappedPages::kMaxBytes / MappedPages::kWindowBytes);
}

TEST(MappedPagesTest, PagesThatAreUsedAgainAndAgainStay) {
  constexpr uint64_t kBytes = MappedPages::kMaxBytes / 2;
  const GuestMemory memory = Memory(kBytes);
  MappedPages pages(memory, /*are_huge=*/false);
  const uint64_t before = MappedBytes();
  for (int i = 0; i < 10; ++i) UseAll(memory, pages, 4096, [](uint8_t& byte) { ++byte; });
  EXPECT_GE(MappedBytes(), before + kBytes);
}

TEST(MappedPagesTest, HugePagesStay) {
  const uint64_t before = MappedBytes();
  const GuestMemory memory = Memory(2 * MappedPages::kMaxBytes);
  MappedPages pages(memory, /*are_huge=*/true);
  EXPECT_GE(UseAll(memory, pages, 4096, [](uint8_t& byte) { byte = 1; }),
            before + 2 * MappedPages::kMaxBytes);
}

}  // namespace
}  // namespace bulkhead::devices
