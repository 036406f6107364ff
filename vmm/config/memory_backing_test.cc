#include "vmm/config/memory_backing.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using HugePages = RamBacking::HugePages;

absl::StatusOr<RamBacking> Read(const std::string& hugepages, uint64_t memory_bytes = 2ull << 30,
                                absl::string_view shmem_enabled = "advise") {
  v1::MemoryBacking config;
  config.set_hugepages(hugepages);
  return ReadMemoryBacking(config, memory_bytes, shmem_enabled,
                           [](const std::string& field, absl::string_view problem) {
                             return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
                           });
}

std::string ErrorOf(const absl::StatusOr<RamBacking>& backing) {
  return std::string(backing.status().message());
}

TEST(MemoryBackingTest, EachKindOfHugePages) {
  EXPECT_EQ(Read("")->huge_pages, HugePages::kCollapsed);
  EXPECT_EQ(Read("none")->huge_pages, HugePages::kNone);
  EXPECT_EQ(Read("thp")->huge_pages, HugePages::kTransparent);
  EXPECT_EQ(Read("2M")->huge_pages, HugePages::k2M);
  EXPECT_EQ(Read("1G")->huge_pages, HugePages::k1G);
  EXPECT_THAT(ErrorOf(Read("4M")), HasSubstr("hugepages: \"4M\" is unknown; give none, thp"));
}

TEST(MemoryBackingTest, MemoryMustConsistOfWholePages) {
  EXPECT_TRUE(Read("2M", 34 << 20).ok());
  EXPECT_THAT(ErrorOf(Read("2M", 33 << 20)), HasSubstr("has 33M and must be a multiple of 2M"));
  EXPECT_THAT(ErrorOf(Read("1G", 512 << 20)), HasSubstr("must be a multiple of 1G"));
  EXPECT_TRUE(Read("thp", 33 << 20).ok());
}

TEST(MemoryBackingTest, TransparentPagesNeedTheHostsConsent) {
  for (const char* word : {"always", "within_size", "advise", "force"}) {
    EXPECT_TRUE(Read("thp", 1 << 30, word).ok()) << word;
  }
  EXPECT_THAT(ErrorOf(Read("thp", 1 << 30, "never")), HasSubstr("shmem_enabled is \"never\""));
  EXPECT_THAT(ErrorOf(Read("thp", 1 << 30, "")), HasSubstr("shmem_enabled is \"missing\""));
}

TEST(MemoryBackingTest, ANodeIsANumberThatTheKernelKnows) {
  v1::MemoryBacking config;
  config.set_numa_node(1024);
  const auto error = [](const std::string& field, absl::string_view problem) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
  };
  EXPECT_THAT(ErrorOf(ReadMemoryBacking(config, 1 << 30, "", error)),
              HasSubstr("numa_node: 1024 is out of range (0 to 1023)"));
  config.set_numa_node(1023);
  EXPECT_THAT(ErrorOf(ReadMemoryBacking(config, 1 << 30, "", error)),
              HasSubstr("numa_node: 1023: this host has no such node"));
  config.set_numa_node(0);
  EXPECT_EQ(ReadMemoryBacking(config, 1 << 30, "", error)->numa_node, 0u);
  config.clear_numa_node();
  EXPECT_EQ(ReadMemoryBacking(config, 1 << 30, "", error)->numa_node, std::nullopt);
}

}  // namespace
}  // namespace bulkhead::vmm
