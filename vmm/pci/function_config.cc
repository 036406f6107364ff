#include "vmm/pci/function_config.h"

#include <array>
#include <bit>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/contract.h"
#include "vmm/pci/pci_registers.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kLargestBar = uint64_t{1} << 30;
constexpr uint16_t kAbsentVendor = 0xffff;  // what an empty slot reads as
constexpr uint32_t kLargestClass = 0xffffff;
constexpr uint8_t kNullCapability = 0x00;
constexpr size_t kShortestBody = 2;
constexpr size_t kLongestBody = 252;

using BarSizes = std::array<uint64_t, kMaxBars>;  // 0: free
constexpr uint64_t kUpperHalf = ~uint64_t{0};     // taken by the 64-bit BAR before it

template <typename... Parts>
absl::Status Invalid(const PciFunctionConfig& config, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("device ", config.name, ": ", parts...));
}

absl::StatusOr<BarSizes> CheckBars(const PciFunctionConfig& config) {
  BarSizes sizes{};
  for (const PciFunctionConfig::Bar& bar : config.bars) {
    const uint32_t index = bar.index;
    const uint32_t last = index + (bar.is_64bit ? 1 : 0);
    if (last >= kMaxBars) return Invalid(config, "BAR ", index, " does not exist");
    if (!std::has_single_bit(bar.size_bytes) || bar.size_bytes < pci::kSmallestBar ||
        bar.size_bytes > kLargestBar) {
      return Invalid(config, "BAR ", index, ": size ", bar.size_bytes,
                     " is no power of two from 16 bytes to 1 GiB");
    }
    if (sizes[index] != 0 || sizes[last] != 0) {
      return Invalid(config, "BAR ", index, " overlaps another");
    }
    sizes[last] = kUpperHalf;
    sizes[index] = bar.size_bytes;
  }
  return sizes;
}

absl::Status CheckDoorbells(const PciFunctionConfig& config, const BarSizes& sizes) {
  std::set<std::pair<uint8_t, uint64_t>> places;
  for (const PciFunctionConfig::Doorbell& doorbell : config.doorbells) {
    const uint64_t bar_size = doorbell.bar < kMaxBars ? sizes[doorbell.bar] : 0;
    if (bar_size == 0 || bar_size == kUpperHalf) {
      return Invalid(config, "doorbell in BAR ", doorbell.bar, ", which it does not have");
    }
    const uint32_t size = doorbell.size_bytes;
    if (size > 8 || (size != 0 && !std::has_single_bit(size))) {
      return Invalid(config, "doorbell of ", size, " bytes");
    }
    const uint64_t extent = size == 0 ? 1 : size;
    if (doorbell.offset >= bar_size || extent > bar_size - doorbell.offset) {
      return Invalid(config, "doorbell at ", doorbell.offset, " lies outside BAR ", doorbell.bar);
    }
    if (!places.emplace(doorbell.bar, doorbell.offset).second) {
      return Invalid(config, "two doorbells at ", doorbell.offset, " of BAR ", doorbell.bar);
    }
    if (doorbell.event_fd < 0) return Invalid(config, "doorbell without an eventfd");
  }
  return absl::OkStatus();
}

absl::Status CheckInterrupts(const PciFunctionConfig& config) {
  if (config.msix_event_fds.size() > pci::kMsixMaxVectors) {
    return Invalid(config, config.msix_event_fds.size(), " MSI-X vectors; at most ",
                   pci::kMsixMaxVectors);
  }
  for (int event_fd : config.msix_event_fds) {
    if (event_fd < 0) return Invalid(config, "MSI-X vector without an eventfd");
  }
  if (config.intx.has_value() && (config.intx->event_fd < 0 || config.intx->resample_fd < 0)) {
    return Invalid(config, "INTx without its eventfds");
  }
  return absl::OkStatus();
}

absl::Status CheckCapability(const PciFunctionConfig& config,
                             const PciFunctionConfig::Capability& capability) {
  if (capability.id == kNullCapability || capability.id == pci::kCapabilityMsi ||
      capability.id == pci::kCapabilityMsix || capability.id == pci::kCapabilityAdvancedFeatures) {
    return Invalid(config, "capability ID ", capability.id, " is not the device's to have");
  }
  if (capability.body.size() < kShortestBody || capability.body.size() > kLongestBody) {
    return Invalid(config, "capability of ", capability.body.size(), " bytes; 2 to 252");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PciFunctionLayout> CheckAndLayOut(const PciFunctionConfig& config) {
  if (config.vendor_id == kAbsentVendor) return Invalid(config, "vendor ID 0xffff means absent");
  if (config.class_code > kLargestClass) return Invalid(config, "class code beyond 24 bits");
  ASSIGN_OR_RETURN(const BarSizes sizes, CheckBars(config));
  RETURN_IF_ERROR(CheckDoorbells(config, sizes));
  RETURN_IF_ERROR(CheckInterrupts(config));
  if (config.capabilities.size() > kMaxCapabilities) {
    return Invalid(config, config.capabilities.size(), " capabilities; at most ", kMaxCapabilities);
  }

  PciFunctionLayout layout;
  size_t next = pci::kFirstCapability;
  if (!config.msix_event_fds.empty()) {
    for (uint8_t index = 0; index < kMaxBars && !layout.msix_bar.has_value(); ++index) {
      if (sizes[index] == 0) layout.msix_bar = index;
    }
    if (!layout.msix_bar.has_value()) return Invalid(config, "no BAR is left for MSI-X");
    layout.msix_capability = static_cast<uint16_t>(next);
    next += pci::kMsixCapabilityBytes;
  }
  for (const PciFunctionConfig::Capability& capability : config.capabilities) {
    RETURN_IF_ERROR(CheckCapability(config, capability));
    layout.device_capabilities.push_back(static_cast<uint16_t>(next));
    next += (pci::kCapabilityHeaderBytes + capability.body.size() + 3) & ~size_t{3};
  }
  layout.advanced_features = static_cast<uint16_t>(next);
  next += (pci::kAdvancedFeaturesBytes + 3) & ~3;
  if (next > pci::kConventionalConfigBytes) {
    return Invalid(config, "capabilities take ", next - pci::kFirstCapability, " bytes; ",
                   pci::kConventionalConfigBytes - pci::kFirstCapability, " are there");
  }
  return layout;
}

}  // namespace bulkhead::vmm
