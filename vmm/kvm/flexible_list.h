#ifndef BULKHEAD_VMM_KVM_FLEXIBLE_LIST_H_
#define BULKHEAD_VMM_KVM_FLEXIBLE_LIST_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <vector>

#include "absl/types/span.h"

namespace bulkhead::vmm {

// A kernel structure that ends in a list of entries, as one zeroed block of memory: kvm_cpuid2
// with kvm_cpuid_entry2, kvm_msrs with kvm_msr_entry, ... The caller sets the count in the header.
// Thread-compatible.
template <typename Header, typename Entry>
class FlexibleList {
  static_assert(std::is_trivially_copyable_v<Header> && std::is_trivially_copyable_v<Entry>);
  static_assert(alignof(Entry) <= alignof(uint64_t) && sizeof(Header) % alignof(Entry) == 0);

 public:
  explicit FlexibleList(size_t capacity)
      : words_((sizeof(Header) + capacity * sizeof(Entry) + 7) / 8) {}
  explicit FlexibleList(absl::Span<const Entry> entries) : FlexibleList(entries.size()) {
    if (!entries.empty()) memcpy(this->entries(), entries.data(), entries.size() * sizeof(Entry));
  }

  Header* header() { return reinterpret_cast<Header*>(words_.data()); }
  Entry* entries() {
    return reinterpret_cast<Entry*>(reinterpret_cast<char*>(words_.data()) + sizeof(Header));
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_FLEXIBLE_LIST_H_
