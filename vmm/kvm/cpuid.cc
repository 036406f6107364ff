#include "vmm/kvm/cpuid.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <bit>

#include "base/errno_status.h"
#include "vmm/kvm/cpuid_dependencies.h"
#include "vmm/kvm/flexible_list.h"

namespace bulkhead::vmm {
namespace {

// Leaf numbers as in the vendors' manuals (Intel SDM volume 2, CPUID; AMD APM volume 3, E).
constexpr uint32_t kVendor = 0;
constexpr uint32_t kFeatures = 1;
constexpr uint32_t kIntelCaches = 4;
constexpr uint32_t kTopology = 0xb;
constexpr uint32_t kTopologyV2 = 0x1f;
constexpr uint32_t kAmdFeatures = 0x80000001;
constexpr uint32_t kAmdSizes = 0x80000008;
constexpr uint32_t kAmdCaches = 0x8000001d;
constexpr uint32_t kAmdTopology = 0x8000001e;
constexpr uint32_t kAmdTopologyV2 = 0x80000026;

constexpr uint32_t kVendorAmd = 0x68747541;    // "Auth"enticAMD, in EBX
constexpr uint32_t kVendorHygon = 0x6f677948;  // "Hygo"nGenuine

constexpr uint32_t kFeatureEcxTscDeadline = 1u << 24;
constexpr uint32_t kFeatureEcxHypervisor = 1u << 31;
constexpr uint32_t kFeatureEdxHtt = 1u << 28;
constexpr uint32_t kAmdFeatureEcxCmpLegacy = 1u << 1;

// Replaces bits [low, low + width) of `word`.
void SetBits(uint32_t& word, int low, int width, uint32_t value) {
  const uint32_t mask = ((1u << width) - 1) << low;
  word = (word & ~mask) | ((value << low) & mask);
}

void SetBit(uint32_t& word, uint32_t bit, bool value) { word = value ? word | bit : word & ~bit; }

// Deterministic cache parameters: a core has its own caches of level 1 and 2; all cores share the
// others.
void ShareCache(uint32_t& eax, uint32_t apic_ids) {
  const uint32_t level = (eax >> 5) & 7;
  SetBits(eax, 14, 12, level >= 3 ? apic_ids - 1 : 0);
}

kvm_cpuid_entry2 TopologyLevel(uint32_t subleaf, uint32_t shift, uint32_t processors,
                               uint32_t level_type, uint32_t apic_id) {
  kvm_cpuid_entry2 entry{};
  entry.function = kTopology;
  entry.index = subleaf;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  entry.eax = shift;
  entry.ebx = processors;
  entry.ecx = subleaf | level_type << 8;
  entry.edx = apic_id;
  return entry;
}

}  // namespace

absl::StatusOr<CpuidTable> SupportedCpuid(const Kvm& kvm) {
  // KVM reports E2BIG, but not how many entries it needs; its own limit is 256.
  for (size_t capacity = 128; capacity <= 1024; capacity *= 2) {
    FlexibleList<kvm_cpuid2, kvm_cpuid_entry2> list(capacity);
    list.header()->nent = static_cast<uint32_t>(capacity);
    if (ioctl(kvm.fd(), KVM_GET_SUPPORTED_CPUID, list.header()) == 0) {
      return CpuidTable(list.entries(), list.entries() + list.header()->nent);
    }
    if (errno != E2BIG) break;
  }
  return ErrnoToStatus(errno, "KVM_GET_SUPPORTED_CPUID");
}

CpuidTable CpuidFor(const CpuidTable& supported, const CpuidPlace& place) {
  const uint32_t id_bits = static_cast<uint32_t>(std::bit_width(place.vcpu_count - 1));
  const uint32_t apic_ids = 1u << id_bits;
  bool amd = false;
  bool has_topology_leaf = false;
  for (const kvm_cpuid_entry2& entry : supported) {
    if (entry.function != kVendor) continue;
    amd = entry.ebx == kVendorAmd || entry.ebx == kVendorHygon;
    has_topology_leaf = entry.eax >= kTopology;
  }

  CpuidTable table;
  for (kvm_cpuid_entry2 entry : supported) {
    switch (entry.function) {
      case kTopology:
      case kTopologyV2:
      case kAmdTopologyV2:
        continue;  // the host's topology; the guest's is leaf 0xB, which is added below
      case kFeatures:
        SetBits(entry.ebx, 8, 8, 8);  // CLFLUSH line, in units of 8 bytes
        SetBits(entry.ebx, 16, 8, apic_ids);
        SetBits(entry.ebx, 24, 8, place.vcpu_index);
        SetBit(entry.ecx, kFeatureEcxTscDeadline, place.tsc_deadline_timer);
        SetBit(entry.ecx, kFeatureEcxHypervisor, true);
        SetBit(entry.edx, kFeatureEdxHtt, place.vcpu_count > 1);
        break;
      case kIntelCaches:
        if ((entry.eax & 0x1f) == 0) break;  // the end of the list
        ShareCache(entry.eax, apic_ids);
        SetBits(entry.eax, 26, 6, apic_ids - 1);
        break;
      case kAmdFeatures:
        if (amd) SetBit(entry.ecx, kAmdFeatureEcxCmpLegacy, place.vcpu_count > 1);
        break;
      case kAmdSizes:
        if (!amd) break;
        SetBits(entry.ecx, 0, 8, place.vcpu_count - 1);
        SetBits(entry.ecx, 12, 4, id_bits);
        break;
      case kAmdCaches:
        if ((entry.eax & 0x1f) != 0) ShareCache(entry.eax, apic_ids);
        break;
      case kAmdTopology:
        entry.eax = place.vcpu_index;  // extended APIC id
        entry.ebx = place.vcpu_index;  // core id; one thread a core
        entry.ecx = 0;                 // node 0 of one
        break;
      default:
        break;
    }
    table.push_back(entry);
  }
  DropFeaturesWithoutPrerequisite(table);
  if (has_topology_leaf) {
    constexpr uint32_t kThreads = 1, kCores = 2, kEnd = 0;
    table.push_back(TopologyLevel(0, 0, 1, kThreads, place.vcpu_index));
    table.push_back(TopologyLevel(1, id_bits, place.vcpu_count, kCores, place.vcpu_index));
    table.push_back(TopologyLevel(2, 0, 0, kEnd, place.vcpu_index));
  }
  return table;
}

}  // namespace bulkhead::vmm
