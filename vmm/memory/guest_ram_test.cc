#include "vmm/memory/guest_ram.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/memory_mapping.h"
#include "base/testing/mapping_flags.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

TEST(GuestRamTest, SmallMemoryIsOneBlockFromZero) {
  const GuestRam ram = *GuestRam::Create(64 * kMiB);
  ASSERT_EQ(ram.blocks().size(), 1u);
  EXPECT_EQ(ram.blocks()[0].start, 0u);
  EXPECT_EQ(ram.blocks()[0].size_bytes, 64 * kMiB);
  EXPECT_EQ(ram.end(), 64 * kMiB);
  EXPECT_TRUE(ram.memory().WriteObject<uint32_t>(64 * kMiB - 4, 1));
  EXPECT_FALSE(ram.memory().WriteObject<uint32_t>(64 * kMiB - 3, 1));
}

TEST(GuestRamTest, MemoryUpToTheHoleHasNoHighBlock) {
  const GuestRam ram = *GuestRam::Create(layout::kHoleStart);
  ASSERT_EQ(ram.blocks().size(), 1u);
  EXPECT_EQ(ram.end(), layout::kHoleStart);
}

TEST(GuestRamTest, LargeMemoryContinuesAboveTheHole) {
  const GuestRam ram = *GuestRam::Create(5 * kGiB);
  ASSERT_EQ(ram.blocks().size(), 2u);
  EXPECT_EQ(ram.blocks()[0].size_bytes, layout::kHoleStart);
  EXPECT_EQ(ram.blocks()[1].start, layout::kHoleEnd);
  EXPECT_EQ(ram.blocks()[1].file_offset, layout::kHoleStart);
  EXPECT_EQ(ram.size_bytes(), 5 * kGiB);
  EXPECT_EQ(ram.end(), 6 * kGiB);
  EXPECT_EQ(ram.memory().HostPointer(layout::kHoleStart, 1), nullptr);
  EXPECT_EQ(ram.memory().HostPointer(layout::kHoleEnd - 1, 1), nullptr);
  EXPECT_NE(ram.memory().HostPointer(layout::kHoleEnd, 1), nullptr);
  for (const GuestRam::Block& block : ram.blocks()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.host) % (2 * kMiB), block.start % (2 * kMiB));
  }
}

TEST(GuestRamTest, IsNotDumped) {
  const GuestRam ram = *GuestRam::Create(5 * kGiB);
  for (const GuestRam::Block& block : ram.blocks()) {
    EXPECT_THAT(MappingFlags(block.host), testing::HasSubstr(" dd "));
  }
}

TEST(GuestRamTest, AMappingOfTheFileShowsTheSameBytes) {
  const GuestRam ram = *GuestRam::Create(layout::kHoleStart + 16 * kMiB);
  const GuestAddress address = layout::kHoleEnd + 0x5008;
  ASSERT_TRUE(ram.memory().WriteObject<uint64_t>(address, 0x1122334455667788));
  const MemoryMapping device = *MemoryMapping::Map(ram.memfd(), ram.blocks()[1].file_offset,
                                                   16 * kMiB, MemoryMapping::Protection::kRead);
  EXPECT_EQ(*reinterpret_cast<const uint64_t*>(device.data() + 0x5008), 0x1122334455667788u);
}

TEST(GuestRamTest, TheDescriptorAllowsNeitherShrinkingNorSealing) {
  const GuestRam ram = *GuestRam::Create(16 * kMiB);
  EXPECT_NE(ftruncate(ram.memfd(), 4096), 0);
  EXPECT_FALSE(AddSeals(ram.memfd(), F_SEAL_FUTURE_WRITE).ok());
  EXPECT_TRUE(ram.memory().WriteObject<uint8_t>(16 * kMiB - 1, 1));
}

// What the host's pool of huge pages has, which tests do not change.
uint64_t FreeHugePages() {
  uint64_t pages = 0;
  std::ifstream("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") >> pages;
  return pages;
}

TEST(GuestRamTest, HugePagesAreSetAsideAtOnceOrRefused) {
  const RamBacking backing = {.huge_pages = RamBacking::HugePages::k2M};
  const uint64_t free_before = FreeHugePages();
  const absl::StatusOr<GuestRam> ram = GuestRam::Create(64 * kMiB, backing);
  if (free_before < 32) {
    EXPECT_EQ(ram.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(ram.status().message()),
                testing::HasSubstr("no 32 free huge pages of 2 MiB"));
    return;
  }
  ASSERT_TRUE(ram.ok()) << ram.status();
  EXPECT_FALSE(GuestRam::Create(2 * kMiB * free_before, backing).ok());
  EXPECT_TRUE(ram->memory().WriteObject<uint8_t>(64 * kMiB - 1, 1));
  ASSERT_TRUE(ram->Populate().ok());
  ASSERT_TRUE(ram->Clear().ok());
  uint8_t byte = 1;
  EXPECT_TRUE(ram->memory().ReadObject(64 * kMiB - 1, byte));
  EXPECT_EQ(byte, 0);
}

TEST(GuestRamTest, MemoryOfHugePagesConsistsOfWholeOnes) {
  const auto create = [](uint64_t size_bytes, RamBacking::HugePages pages) {
    return GuestRam::Create(size_bytes, {.huge_pages = pages}).status().code();
  };
  EXPECT_EQ(create(33 * kMiB, RamBacking::HugePages::k2M), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create(512 * kMiB, RamBacking::HugePages::k1G), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create(33 * kMiB, RamBacking::HugePages::kTransparent), absl::StatusCode::kOk);
}

TEST(GuestRamTest, MemoryComesFromTheGivenNode) {
  const absl::StatusOr<GuestRam> ram = GuestRam::Create(16 * kMiB, {.numa_node = 0});
  ASSERT_TRUE(ram.ok()) << ram.status();
  ASSERT_TRUE(ram->Populate().ok());
  const absl::Status missing = GuestRam::Create(16 * kMiB, {.numa_node = 1000}).status();
  EXPECT_THAT(std::string(missing.message()), testing::HasSubstr("NUMA node 1000: mbind"));
}

TEST(GuestRamTest, RefusesSizesThatAreNotWholePages) {
  EXPECT_EQ(GuestRam::Create(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GuestRam::Create(4097).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(GuestRam::Create(UINT64_MAX & ~0xfffull).ok());
}

TEST(GuestRamTest, AllOfALargeRamIsCleared) {
  constexpr uint64_t kSize = (64 << 20) * 2 + (1 << 20);
  const GuestRam ram = *GuestRam::Create(kSize);
  for (uint64_t address = 0; address < kSize; address += 1 << 20) {
    ram.blocks()[0].host[address] = 1;
  }
  ASSERT_TRUE(ram.Clear().ok());
  for (uint64_t address = 0; address < kSize; address += 1 << 20) {
    EXPECT_EQ(ram.blocks()[0].host[address], 0) << address;
  }
}

TEST(GuestRamTest, ClearingIsCancelledBetweenItsPieces) {
  constexpr uint64_t kPiece = 64 << 20;
  const GuestRam ram = *GuestRam::Create(3 * kPiece);
  for (uint64_t address = 0; address < 3 * kPiece; address += kPiece) {
    ram.blocks()[0].host[address] = 1;
  }
  int asked = 0;
  EXPECT_EQ(ram.Clear([&] { return ++asked == 2; }).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ram.blocks()[0].host[0], 0);
  EXPECT_EQ(ram.blocks()[0].host[kPiece], 1);
  EXPECT_EQ(ram.blocks()[0].host[2 * kPiece], 1);
}

TEST(GuestRamTest, ClearingReachesEveryMappingOfTheFile) {
  const GuestRam ram = *GuestRam::Create(5 * kGiB);
  // As a device process has it.
  const MemoryMapping other =
      *MemoryMapping::Map(ram.memfd(), 0, ram.size_bytes(), MemoryMapping::Protection::kReadWrite);
  ASSERT_TRUE(ram.memory().WriteObject<uint64_t>(0x1000, 1));
  ASSERT_TRUE(ram.memory().WriteObject<uint64_t>(layout::kHoleEnd + 0x2000, 2));
  other.data()[64 * kMiB] = 3;
  ASSERT_TRUE(ram.Clear().ok());
  uint64_t word = ~uint64_t{0};
  ASSERT_TRUE(ram.memory().ReadObject(0x1000, word));
  EXPECT_EQ(word, 0u);
  ASSERT_TRUE(ram.memory().ReadObject(layout::kHoleEnd + 0x2000, word));
  EXPECT_EQ(word, 0u);
  EXPECT_EQ(other.data()[64 * kMiB], 0);
  // Both see what is written afterwards.
  ASSERT_TRUE(ram.memory().WriteObject<uint64_t>(0x1000, 4));
  EXPECT_EQ(other.data()[0x1000], 4);
}

}  // namespace
}  // namespace bulkhead::vmm
