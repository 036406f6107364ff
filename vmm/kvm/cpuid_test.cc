#include "vmm/kvm/cpuid.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

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

kvm_cpuid_entry2 Find(const CpuidTable& table, uint32_t function, uint32_t index = 0) {
  const auto found = std::find_if(table.begin(), table.end(), [=](const kvm_cpuid_entry2& entry) {
    return entry.function == function && entry.index == index;
  });
  EXPECT_NE(found, table.end()) << std::hex << function << " " << index;
  return found == table.end() ? kvm_cpuid_entry2{} : *found;
}

bool Has(const CpuidTable& table, uint32_t function) {
  return std::any_of(table.begin(), table.end(),
                     [=](const kvm_cpuid_entry2& entry) { return entry.function == function; });
}

constexpr uint32_t kAmd = 0x68747541;
constexpr uint32_t kIntel = 0x756e6547;

CpuidTable Host(uint32_t vendor) {
  return {
      Leaf(0, 0, 0x1f, vendor, 0, 0),
      Leaf(1, 0, 0x800f12, 0x55aa1122, 0x00000201, 0x078bfbff),
      Leaf(4, 0, 0xfc004121, 0x1c0003f, 0x3f, 0),   // level 1, shared by 2; 64 cores
      Leaf(4, 3, 0xfc1fc163, 0x3c0003f, 0xfff, 0),  // level 3, shared by 128
      Leaf(4, 4, 0, 0, 0, 0),
      Leaf(7, 0, 1, 0x219c0789, 0, 0),
      Leaf(0xb, 0, 1, 2, 0x100, 77),
      Leaf(0x1f, 0, 1, 2, 0x100, 77),
      Leaf(0x80000001, 0, 0, 0, 0x00400003, 0x2fd3fbff),
      Leaf(0x80000008, 0, 0x3030, 0x1000, 0x707f, 0),
      Leaf(0x8000001d, 3, 0x0003c163, 0x3c0003f, 0x3fff, 1),
      Leaf(0x8000001e, 0, 77, 0x0105, 0x0301, 0),
      Leaf(0x80000026, 0, 1, 2, 0x100, 77),
  };
}

TEST(CpuidForTest, LeafOneCarriesApicIdCountHypervisorAndTimer) {
  const CpuidTable table =
      CpuidFor(Host(kIntel), {.vcpu_index = 2, .vcpu_count = 3, .tsc_deadline_timer = true});
  const kvm_cpuid_entry2 leaf = Find(table, 1);
  EXPECT_EQ(leaf.ebx, 0x02040822u);  // id 2, 4 ids, 64-byte lines, brand index kept
  EXPECT_EQ(leaf.ecx, 0x81000201u);
  EXPECT_EQ(leaf.edx, 0x178bfbffu);
}

TEST(CpuidForTest, OneVcpuIsNotMultithreaded) {
  const CpuidTable table = CpuidFor(Host(kAmd), {.vcpu_index = 0, .vcpu_count = 1});
  EXPECT_EQ(Find(table, 1).edx & 1u << 28, 0u);
  EXPECT_EQ(Find(table, 1).ecx & 1u << 24, 0u) << "no TSC-deadline timer";
  EXPECT_EQ(Find(table, 0x80000001).ecx & 2, 0u);
  EXPECT_EQ(Find(table, 0x80000008).ecx, 0x0000u);
  EXPECT_EQ(Find(table, 0xb, 1).eax, 0u);
  EXPECT_EQ(Find(table, 0xb, 1).ebx, 1u);
}

TEST(CpuidForTest, TopologyLeafDescribesOneThreadACoreAndAllCoresInThePackage) {
  const CpuidTable table = CpuidFor(Host(kIntel), {.vcpu_index = 4, .vcpu_count = 6});
  const kvm_cpuid_entry2 threads = Find(table, 0xb, 0);
  EXPECT_EQ(threads.eax, 0u);
  EXPECT_EQ(threads.ebx, 1u);
  EXPECT_EQ(threads.ecx, 0x100u);
  EXPECT_EQ(threads.edx, 4u);
  EXPECT_EQ(threads.flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
  const kvm_cpuid_entry2 cores = Find(table, 0xb, 1);
  EXPECT_EQ(cores.eax, 3u) << "ids 0 to 7";
  EXPECT_EQ(cores.ebx, 6u);
  EXPECT_EQ(cores.ecx, 0x201u);
  EXPECT_EQ(cores.edx, 4u);
  EXPECT_EQ(Find(table, 0xb, 2).ecx, 2u);
}

TEST(CpuidForTest, TheHostsOwnTopologyIsNotShown) {
  const CpuidTable table = CpuidFor(Host(kAmd), {.vcpu_index = 0, .vcpu_count = 2});
  EXPECT_FALSE(Has(table, 0x1f));
  EXPECT_FALSE(Has(table, 0x80000026));
  EXPECT_EQ(std::count_if(table.begin(), table.end(),
                          [](const kvm_cpuid_entry2& entry) { return entry.function == 0xb; }),
            3);
}

TEST(CpuidForTest, HostWithoutTopologyLeafGetsNone) {
  CpuidTable host = Host(kAmd);
  host[0].eax = 7;
  EXPECT_FALSE(Has(CpuidFor(host, {.vcpu_index = 0, .vcpu_count = 2}), 0xb));
}

TEST(CpuidForTest, OnlyLastLevelCachesAreShared) {
  const CpuidTable table = CpuidFor(Host(kIntel), {.vcpu_index = 1, .vcpu_count = 4});
  EXPECT_EQ(Find(table, 4, 0).eax, 0x0c000121u);
  EXPECT_EQ(Find(table, 4, 3).eax, 0x0c00c163u);
  EXPECT_EQ(Find(table, 4, 4).eax, 0u);
  EXPECT_EQ(Find(table, 0x8000001d, 3).eax, 0x0000c163u);
}

TEST(CpuidForTest, AmdLeavesCarryTheSameTopology) {
  const CpuidTable table = CpuidFor(Host(kAmd), {.vcpu_index = 3, .vcpu_count = 5});
  EXPECT_EQ(Find(table, 0x80000001).ecx, 0x00400003u);
  EXPECT_EQ(Find(table, 0x80000008).ecx, 0x3004u) << "3 id bits, 5 cores";
  EXPECT_EQ(Find(table, 0x80000008).eax, 0x3030u) << "address sizes are the host's";
  const kvm_cpuid_entry2 topology = Find(table, 0x8000001e);
  EXPECT_EQ(topology.eax, 3u);
  EXPECT_EQ(topology.ebx, 3u);
  EXPECT_EQ(topology.ecx, 0u);
}

TEST(CpuidForTest, IntelDoesNotGetAmdsFields) {
  const CpuidTable table = CpuidFor(Host(kIntel), {.vcpu_index = 0, .vcpu_count = 2});
  EXPECT_EQ(Find(table, 0x80000008).ecx, 0x707fu);
  EXPECT_EQ(Find(table, 0x80000001).ecx, 0x00400003u);
}

TEST(CpuidForTest, AvxWithoutXsaveIsNotShown) {
  CpuidTable host = Host(kAmd);
  host[1].ecx |= 1u << 28;
  host[5].ebx |= 1u << 5;
  const CpuidTable table = CpuidFor(host, {.vcpu_index = 0, .vcpu_count = 2});
  EXPECT_EQ(Find(table, 1).ecx & 1u << 28, 0u);
  EXPECT_EQ(Find(table, 7).ebx & 1u << 5, 0u) << "AVX2";
}

TEST(CpuidForTest, OtherLeavesPassThrough) {
  const CpuidTable table = CpuidFor(Host(kIntel), {.vcpu_index = 0, .vcpu_count = 2});
  EXPECT_EQ(Find(table, 7).ebx, 0x219c0789u);
}

}  // namespace
}  // namespace bulkhead::vmm
