#include "vmm/kvm/cpuid_dependencies.h"

#include <stdint.h>

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using Table = std::vector<kvm_cpuid_entry2>;

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
                      uint32_t edx) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

const kvm_cpuid_entry2* Find(const Table& table, uint32_t function, uint32_t index = 0) {
  const auto found = std::find_if(table.begin(), table.end(), [=](const kvm_cpuid_entry2& entry) {
    return entry.function == function && entry.index == index;
  });
  return found == table.end() ? nullptr : &*found;
}

constexpr uint32_t kAll = 0xffffffff;
constexpr uint32_t kXsave = 1u << 26;
constexpr uint32_t kAvx = 1u << 28;
constexpr uint32_t kAvx2 = 1u << 5;
constexpr uint32_t kAvx512F = 1u << 16;

// A processor that has every feature but those whose bits are given.
Table Without(uint32_t leaf_1_ecx, uint32_t leaf_7_ebx = 0) {
  return {
      Leaf(1, 0, 0, 0, kAll & ~leaf_1_ecx, kAll),
      Leaf(7, 0, 1, kAll & ~leaf_7_ebx, kAll, kAll),
      Leaf(7, 1, kAll, 0, 0, kAll),
      Leaf(0xd, 0, 7, 832, 832, 0),
      Leaf(0xd, 1, 15, 832, 0, 0),
      Leaf(0x1d, 0, 1, 0, 0, 0),
      Leaf(0x24, 0, 0, 1, 0, 0),
      Leaf(0x80000001, 0, 0, 0, kAll, kAll),
      Leaf(0x8000001c, 0, kAll, 0, 0, kAll),
  };
}

Table Dropped(Table table) {
  DropFeaturesWithoutPrerequisite(table);
  return table;
}

TEST(CpuidDependenciesTest, ACompleteProcessorIsUnchanged) {
  const Table before = Without(0);
  const Table after = Dropped(before);
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(after[i].eax, before[i].eax) << i;
    EXPECT_EQ(after[i].ebx, before[i].ebx) << i;
    EXPECT_EQ(after[i].ecx, before[i].ecx) << i;
    EXPECT_EQ(after[i].edx, before[i].edx) << i;
  }
}

TEST(CpuidDependenciesTest, WithoutXsaveFeaturesThatNeedItsStateAreDropped) {
  const Table table = Dropped(Without(kXsave));
  // FMA, XSAVE, OSXSAVE, AVX, F16C.
  EXPECT_EQ(Find(table, 1)->ecx, kAll & ~(1u << 12 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29));
  // AVX2, MPX, and all of AVX-512.
  EXPECT_EQ(Find(table, 7)->ebx, kAll & ~0xdc234020u);
  // AVX512_VBMI, PKU, OSPKE, AVX512_VBMI2, CET_SS, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ.
  EXPECT_EQ(Find(table, 7)->ecx, kAll & ~0x00005edau);
  EXPECT_EQ(Find(table, 7)->edx, kAll & ~0x03c0010cu);
  EXPECT_EQ(Find(table, 7, 1)->eax, kAll & ~0x00a00037u);
  EXPECT_EQ(Find(table, 7, 1)->edx, kAll & ~0x00280530u);
  EXPECT_EQ(Find(table, 0x80000001)->ecx, kAll & ~(1u << 11 | 1u << 15 | 1u << 16));
  for (const uint32_t leaf : {0xdu, 0x1du, 0x24u, 0x8000001cu}) {
    EXPECT_EQ(Find(table, leaf), nullptr) << std::hex << leaf;
  }
  EXPECT_EQ(Find(table, 0xd, 1), nullptr);
}

TEST(CpuidDependenciesTest, WithoutXsaveFeaturesThatDoNotNeedItAreKept) {
  const Table table = Dropped(Without(kXsave));
  EXPECT_NE(Find(table, 1)->ecx & 1u << 25, 0u) << "AES";
  EXPECT_NE(Find(table, 1)->ecx & 1u << 1, 0u) << "PCLMULQDQ";
  EXPECT_NE(Find(table, 7)->ebx & 1u << 8, 0u) << "BMI2 has VEX encodings but no state";
  EXPECT_NE(Find(table, 7)->ebx & 1u << 29, 0u) << "SHA";
  EXPECT_NE(Find(table, 7)->ecx & 1u << 8, 0u) << "GFNI";
}

TEST(CpuidDependenciesTest, WithoutAvxItsDependentsAreDroppedAndXsaveIsKept) {
  const Table table = Dropped(Without(kAvx));
  EXPECT_NE(Find(table, 1)->ecx & kXsave, 0u);
  EXPECT_EQ(Find(table, 1)->ecx & (1u << 12 | 1u << 29), 0u) << "FMA, F16C";
  EXPECT_EQ(Find(table, 7)->ebx & (kAvx2 | kAvx512F | 1u << 31), 0u);
  EXPECT_NE(Find(table, 7)->ecx & 1u << 3, 0u) << "PKU needs XSAVE only";
  EXPECT_NE(Find(table, 0xd), nullptr);
}

TEST(CpuidDependenciesTest, WithoutAvx512FItsExtensionsAreDroppedAndAvx2IsKept) {
  const Table table = Dropped(Without(0, kAvx512F));
  EXPECT_NE(Find(table, 7)->ebx & kAvx2, 0u);
  EXPECT_EQ(Find(table, 7)->ebx & 1u << 31, 0u) << "AVX512VL";
  EXPECT_EQ(Find(table, 7)->edx & 1u << 23, 0u) << "AVX512_FP16";
  EXPECT_EQ(Find(table, 7, 1)->eax & 1u << 5, 0u) << "AVX512_BF16";
  EXPECT_NE(Find(table, 7, 1)->eax & 1u << 4, 0u) << "AVX_VNNI";
}

TEST(CpuidDependenciesTest, AnOldProcessorWithFewLeavesIsUnchanged) {
  const Table table = Dropped({Leaf(0, 0, 1, 0, 0, 0), Leaf(1, 0, 0, 0, 0x80000201, 0x078bfbff)});
  ASSERT_EQ(table.size(), 2u);
  EXPECT_EQ(table[1].ecx, 0x80000201u);
}

}  // namespace
}  // namespace bulkhead::vmm
