#include "vmm/kvm/cpuid_dependencies.h"

#include <stdint.h>

#include <algorithm>
#include <initializer_list>

namespace bulkhead::vmm {
namespace {

enum class Register { kEax, kEbx, kEcx, kEdx };

// A register of one leaf, by the numbers of the vendors' manuals.
struct Word {
  uint32_t leaf;
  uint32_t subleaf;
  Register name;
};

constexpr Word kFeatures1Ecx = {1, 0, Register::kEcx};
constexpr Word kFeatures7Ebx = {7, 0, Register::kEbx};
constexpr Word kFeatures7Ecx = {7, 0, Register::kEcx};
constexpr Word kFeatures7Edx = {7, 0, Register::kEdx};
constexpr Word kFeatures71Eax = {7, 1, Register::kEax};
constexpr Word kFeatures71Edx = {7, 1, Register::kEdx};
constexpr Word kAmdFeaturesEcx = {0x80000001, 0, Register::kEcx};

constexpr uint32_t Bits(std::initializer_list<int> numbers) {
  uint32_t bits = 0;
  for (const int number : numbers) bits |= 1u << number;
  return bits;
}

// `dependents` need `prerequisite`, one bit. Ordered: a prerequisite's own row comes before the
// rows that test it. The pairs are those of Linux's arch/x86/kernel/cpu/cpuid-deps.c, and those of
// the manuals for features that Linux does not list.
struct Dependency {
  Word prerequisite_word;
  uint32_t prerequisite;
  Word word;
  uint32_t dependents;
};

constexpr uint32_t kXsave = Bits({26});
constexpr uint32_t kAvx = Bits({28});
constexpr uint32_t kAvx2 = Bits({5});
constexpr uint32_t kAvx512F = Bits({16});

constexpr Dependency kDependencies[] = {
    // Registers whose state only XSAVE can save.
    {kFeatures1Ecx, kXsave, kFeatures1Ecx, Bits({27, 28})},      // OSXSAVE, AVX
    {kFeatures1Ecx, kXsave, kFeatures7Ebx, Bits({14})},          // MPX
    {kFeatures1Ecx, kXsave, kFeatures7Ecx, Bits({3, 4, 7})},     // PKU, OSPKE, CET_SS
    {kFeatures1Ecx, kXsave, kFeatures7Edx, Bits({22, 24, 25})},  // AMX-BF16, -TILE, -INT8
    {kFeatures1Ecx, kXsave, kFeatures71Eax, Bits({21})},         // AMX-FP16
    {kFeatures1Ecx, kXsave, kFeatures71Edx, Bits({8, 21})},      // AMX-COMPLEX, APX_F
    {kFeatures1Ecx, kXsave, kAmdFeaturesEcx, Bits({15})},        // LWP
    // Instructions on AVX's registers.
    {kFeatures1Ecx, kAvx, kFeatures1Ecx, Bits({12, 29})},           // FMA, F16C
    {kFeatures1Ecx, kAvx, kFeatures7Ebx, kAvx2},                    //
    {kFeatures1Ecx, kAvx, kFeatures7Ecx, Bits({9, 10})},            // VAES, VPCLMULQDQ
    {kFeatures1Ecx, kAvx, kFeatures71Eax, Bits({0, 1, 2, 4, 23})},  // SHA512, SM3, SM4, VNNI, IFMA
    {kFeatures1Ecx, kAvx, kFeatures71Edx, Bits({4, 5, 10})},        // INT8, NE-CONVERT, INT16
    {kFeatures1Ecx, kAvx, kAmdFeaturesEcx, Bits({11, 16})},         // XOP, FMA4
    // AVX-512, and AVX10, which enumerates the same registers again.
    {kFeatures7Ebx, kAvx2, kFeatures7Ebx, kAvx512F},
    {kFeatures7Ebx, kAvx512F, kFeatures7Ebx, Bits({17, 21, 26, 27, 28, 30, 31})},
    {kFeatures7Ebx, kAvx512F, kFeatures7Ecx, Bits({1, 6, 11, 12, 14})},
    {kFeatures7Ebx, kAvx512F, kFeatures7Edx, Bits({2, 3, 8, 23})},
    {kFeatures7Ebx, kAvx512F, kFeatures71Eax, Bits({5})},
    {kFeatures7Ebx, kAvx512F, kFeatures71Edx, Bits({19})},
};

// Leaves that describe XSAVE's areas, AMX's tiles, AVX10 and LWP. None is valid without XSAVE.
constexpr uint32_t kXsaveLeaves[] = {0xd, 0x1d, 0x1e, 0x24, 0x8000001c};

uint32_t* Find(std::vector<kvm_cpuid_entry2>& table, const Word& word) {
  for (kvm_cpuid_entry2& entry : table) {
    if (entry.function != word.leaf || entry.index != word.subleaf) continue;
    switch (word.name) {
      case Register::kEax:
        return &entry.eax;
      case Register::kEbx:
        return &entry.ebx;
      case Register::kEcx:
        return &entry.ecx;
      case Register::kEdx:
        return &entry.edx;
    }
  }
  return nullptr;
}

bool Has(std::vector<kvm_cpuid_entry2>& table, const Word& word, uint32_t bit) {
  const uint32_t* const found = Find(table, word);
  return found != nullptr && (*found & bit) != 0;
}

}  // namespace

void DropFeaturesWithoutPrerequisite(std::vector<kvm_cpuid_entry2>& table) {
  for (const Dependency& row : kDependencies) {
    if (Has(table, row.prerequisite_word, row.prerequisite)) continue;
    if (uint32_t* const word = Find(table, row.word); word != nullptr) *word &= ~row.dependents;
  }
  if (Has(table, kFeatures1Ecx, kXsave)) return;
  const auto describes_xsave = [](const kvm_cpuid_entry2& entry) {
    return std::find(std::begin(kXsaveLeaves), std::end(kXsaveLeaves), entry.function) !=
           std::end(kXsaveLeaves);
  };
  table.erase(std::remove_if(table.begin(), table.end(), describes_xsave), table.end());
}

}  // namespace bulkhead::vmm
