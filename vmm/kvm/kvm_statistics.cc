#include "vmm/kvm/kvm_statistics.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {
namespace {

// Far more than any kernel has. They bound the memory, not what is trusted: it is the host's
// kernel.
constexpr uint32_t kMaxCounters = 1024;
constexpr uint32_t kMaxNameBytes = 256;
constexpr size_t kMaxDataBytes = 256 * 1024;

bool ReadAll(int fd, void* data, size_t size, uint64_t offset) {
  return pread(fd, data, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

}  // namespace

KvmStatistics KvmStatistics::OfVcpu(int vcpu_fd) {
  KvmStatistics statistics;
  UniqueFd fd(ioctl(vcpu_fd, KVM_GET_STATS_FD, 0));
  kvm_stats_header header;
  if (!fd.ok() || !ReadAll(fd.get(), &header, sizeof(header), 0) ||
      header.num_desc > kMaxCounters || header.name_size == 0 || header.name_size > kMaxNameBytes) {
    return statistics;
  }
  const size_t stride = sizeof(kvm_stats_desc) + header.name_size;
  std::vector<char> descriptors(stride * header.num_desc);
  if (!ReadAll(fd.get(), descriptors.data(), descriptors.size(), header.desc_offset)) {
    return statistics;
  }
  for (uint32_t i = 0; i < header.num_desc; ++i) {
    const char* const bytes = descriptors.data() + i * stride;
    kvm_stats_desc descriptor;
    memcpy(&descriptor, bytes, sizeof(descriptor));
    // Only plain counters, and not histograms.
    if (descriptor.size != 1 || descriptor.offset > kMaxDataBytes - sizeof(uint64_t)) continue;
    const char* const name = bytes + sizeof(descriptor);
    statistics.counters_.push_back(
        {std::string(name, strnlen(name, header.name_size)), descriptor.offset});
    statistics.data_bytes_ = std::max(statistics.data_bytes_, descriptor.offset + sizeof(uint64_t));
  }
  statistics.data_offset_ = header.data_offset;
  statistics.fd_ = std::move(fd);
  return statistics;
}

std::optional<std::vector<uint64_t>> KvmStatistics::Read(
    absl::Span<const absl::string_view> names) const {
  std::vector<char> data(data_bytes_);
  if (!fd_.ok() || !ReadAll(fd_.get(), data.data(), data.size(), data_offset_)) {
    return std::nullopt;
  }
  std::vector<uint64_t> values;
  for (const absl::string_view name : names) {
    uint64_t& value = values.emplace_back(0);
    const auto counter = std::find_if(counters_.begin(), counters_.end(),
                                      [name](const Counter& each) { return each.name == name; });
    if (counter != counters_.end()) memcpy(&value, &data[counter->offset], sizeof(value));
  }
  return values;
}

}  // namespace bulkhead::vmm
