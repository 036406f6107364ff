#include "vmm/device/device_description.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "proto/contract.h"
#include "proto/durable_layout.h"
#include "vmm/device/hardware_id.h"
#include "vmm/device/pci_registers.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMaxBarBytes = uint64_t{1} << 30;
constexpr size_t kCapabilitySpaceBytes = pci::kConventionalConfigBytes - pci::kFirstCapability;
constexpr size_t kMinCapabilityBody = 2;
constexpr size_t kMaxCapabilityBody = kCapabilitySpaceBytes - pci::kCapabilityHeaderBytes;
constexpr size_t kMaxPortRanges = 6;
constexpr uint32_t kMaxPortsOfRange = 255;
constexpr uint32_t kLastIsaIrq = 15;
constexpr int kMaxDoorbells = 128;
constexpr int kMaxRequiredResources = 32;
constexpr size_t kMaxNameBytes = 64;

template <typename... Args>
absl::Status Refuse(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("device info: ", args...));
}

std::string Hex(uint64_t value) { return absl::StrCat("0x", absl::Hex(value)); }

absl::Status CheckMax(absl::string_view field, uint64_t value, uint64_t max) {
  if (value <= max) return absl::OkStatus();
  return Refuse(field, ": ", Hex(value), " is out of range (0 to ", Hex(max), ")");
}

// Names are shown to people and compared with the configuration.
absl::Status CheckName(absl::string_view field, absl::string_view name) {
  const bool good = !name.empty() && name.size() <= kMaxNameBytes &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
                             c == '_' || c == '.';
                    });
  if (good) return absl::OkStatus();
  return Refuse(field, " is '", absl::CHexEscape(name.substr(0, kMaxNameBytes)), "': must be 1 to ",
                kMaxNameBytes, " letters, digits, '-', '_' or '.'");
}

absl::StatusOr<DeviceDescription::Bar> ValidateBar(const v1::Bar& bar, uint32_t& used) {
  const std::string field = absl::StrCat("BAR ", bar.index());
  if (bar.index() >= kMaxBars) return Refuse(field, ": the index is out of range (0 to 5)");
  if (bar.is_64bit() && bar.index() + 1 >= kMaxBars) {
    return Refuse(field, ": a 64-bit BAR takes two indices, but this is the last one");
  }
  const uint32_t mask = (bar.is_64bit() ? 3u : 1u) << bar.index();
  if ((used & mask) != 0) return Refuse(field, ": overlaps another BAR");
  used |= mask;
  const uint64_t size = bar.size_bytes();
  if (size < pci::kSmallestBar || size > kMaxBarBytes || (size & (size - 1)) != 0) {
    return Refuse(field, ": size_bytes is ", size, ": must be a power of two, 16 bytes to 1 GiB");
  }
  return DeviceDescription::Bar{.index = static_cast<uint8_t>(bar.index()),
                                .size_bytes = size,
                                .is_64bit = bar.is_64bit(),
                                .prefetchable = bar.prefetchable()};
}

absl::Status ValidateCapabilities(const v1::PciFunction& pci,
                                  std::vector<DeviceDescription::Capability>& out) {
  if (pci.capabilities_size() > kMaxCapabilities) {
    return Refuse(pci.capabilities_size(), " capabilities, at most ", kMaxCapabilities);
  }
  size_t space_bytes = pci::CapabilitySpace(pci::kAdvancedFeaturesBytes);
  if (pci.msix_vectors() != 0) space_bytes += pci::CapabilitySpace(pci::kMsixCapabilityBytes);
  for (const v1::Capability& capability : pci.capabilities()) {
    const uint32_t id = capability.id();
    if (id == 0 || id > 0xff || id == pci::kCapabilityMsi || id == pci::kCapabilityMsix ||
        id == pci::kCapabilityAdvancedFeatures) {
      return Refuse("capability ID ", Hex(id), ": is reserved for the vmm or out of range");
    }
    const std::string& body = capability.body();
    if (body.size() < kMinCapabilityBody || body.size() > kMaxCapabilityBody) {
      return Refuse("capability ", Hex(id), ": body has ", body.size(), " bytes: must be ",
                    kMinCapabilityBody, " to ", kMaxCapabilityBody);
    }
    space_bytes += pci::CapabilitySpace(pci::kCapabilityHeaderBytes + body.size());
    out.push_back({.id = static_cast<uint8_t>(id),
                   .body = std::vector<uint8_t>(body.begin(), body.end()),
                   .forwarded = capability.forwarded()});
  }
  if (space_bytes > kCapabilitySpaceBytes) {
    return Refuse("the capabilities take ", space_bytes, " bytes of configuration space, at most ",
                  kCapabilitySpaceBytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceDescription::PciFunction> ValidatePci(const v1::PciFunction& pci) {
  RETURN_IF_ERROR(CheckMax("vendor_id", pci.vendor_id(), 0xffff));
  if (pci.vendor_id() == 0xffff) return Refuse("vendor_id is 0xffff, which means 'no device'");
  RETURN_IF_ERROR(CheckMax("device_id", pci.device_id(), 0xffff));
  RETURN_IF_ERROR(CheckMax("class_code", pci.class_code(), 0xffffff));
  RETURN_IF_ERROR(CheckMax("revision_id", pci.revision_id(), 0xff));
  RETURN_IF_ERROR(CheckMax("subsystem_vendor_id", pci.subsystem_vendor_id(), 0xffff));
  RETURN_IF_ERROR(CheckMax("subsystem_id", pci.subsystem_id(), 0xffff));
  RETURN_IF_ERROR(CheckMax("msix_vectors", pci.msix_vectors(), pci::kMsixMaxVectors));
  DeviceDescription::PciFunction out = {
      .vendor_id = static_cast<uint16_t>(pci.vendor_id()),
      .device_id = static_cast<uint16_t>(pci.device_id()),
      .class_code = pci.class_code(),
      .revision_id = static_cast<uint8_t>(pci.revision_id()),
      .subsystem_vendor_id = static_cast<uint16_t>(pci.subsystem_vendor_id()),
      .subsystem_id = static_cast<uint16_t>(pci.subsystem_id()),
      .bars = {},
      .msix_vectors = static_cast<uint16_t>(pci.msix_vectors()),
      .has_intx = pci.has_intx(),
      .capabilities = {}};
  uint32_t used_bars = 0;
  for (const v1::Bar& bar : pci.bars()) {
    ASSIGN_OR_RETURN(out.bars.emplace_back(), ValidateBar(bar, used_bars));
  }
  if (pci.msix_vectors() != 0 && used_bars == (1u << kMaxBars) - 1) {
    return Refuse("no BAR index is free for the MSI-X table");
  }
  std::sort(out.bars.begin(), out.bars.end(),
            [](const auto& a, const auto& b) { return a.index < b.index; });
  RETURN_IF_ERROR(ValidateCapabilities(pci, out.capabilities));
  return out;
}

absl::StatusOr<DeviceDescription::PlatformDevice> ValidatePlatform(
    const v1::PlatformDevice& platform) {
  if (!IsHardwareId(platform.acpi_hid())) {
    return Refuse("acpi_hid is '",
                  absl::CHexEscape(absl::string_view(platform.acpi_hid()).substr(0, kMaxNameBytes)),
                  "': must be of the form PNP0501 or ABCD0123");
  }
  if (platform.port_ranges_size() == 0 ||
      static_cast<size_t>(platform.port_ranges_size()) > kMaxPortRanges) {
    return Refuse(platform.port_ranges_size(), " port ranges: must be 1 to ", kMaxPortRanges);
  }
  RETURN_IF_ERROR(CheckMax("irq", platform.irq(), kLastIsaIrq));
  if (platform.irq() == layout::kAcpiGsi) return Refuse("irq is 9, which ACPI uses");
  DeviceDescription::PlatformDevice out = {.acpi_hid = platform.acpi_hid(),
                                           .port_ranges = {},
                                           .irq = static_cast<uint8_t>(platform.irq())};
  for (const v1::PortRange& range : platform.port_ranges()) {
    const uint64_t end = uint64_t{range.base()} + range.size();
    if (range.size() == 0 || range.size() > kMaxPortsOfRange || end > 0x10000) {
      return Refuse("port range ", Hex(range.base()), " + ", Hex(range.size()),
                    ": must be 1 to 255 ports up to 0xffff");
    }
    for (const DeviceDescription::PortRange& other : out.port_ranges) {
      if (range.base() < uint64_t{other.base} + other.size && other.base < end) {
        return Refuse("port range ", Hex(range.base()), " + ", Hex(range.size()),
                      ": overlaps another");
      }
    }
    out.port_ranges.push_back(
        {.base = static_cast<uint16_t>(range.base()), .size = static_cast<uint16_t>(range.size())});
  }
  return out;
}

std::optional<uint64_t> RegionSize(const DeviceDescription& device, uint32_t region) {
  if (device.pci.has_value()) {
    for (const DeviceDescription::Bar& bar : device.pci->bars) {
      if (bar.index == region) return bar.size_bytes;
    }
  } else if (region < device.platform->port_ranges.size()) {
    return device.platform->port_ranges[region].size;
  }
  return std::nullopt;
}

absl::Status ValidateDoorbells(const v1::DeviceInfo& info, DeviceDescription& device) {
  if (info.doorbells_size() > kMaxDoorbells) {
    return Refuse(info.doorbells_size(), " doorbells, at most ", kMaxDoorbells);
  }
  for (int i = 0; i < info.doorbells_size(); ++i) {
    const v1::Doorbell& doorbell = info.doorbells(i);
    const std::string field = absl::StrCat("doorbell ", i);
    const uint32_t size = doorbell.size_bytes();
    if (size != 0 && size != 1 && size != 2 && size != 4 && size != 8) {
      return Refuse(field, ": size_bytes is ", size, ": must be 0, 1, 2, 4 or 8");
    }
    const std::optional<uint64_t> region_size = RegionSize(device, doorbell.region());
    if (!region_size.has_value()) {
      return Refuse(field, ": the device has no region ", doorbell.region());
    }
    const uint64_t span = std::max(size, 1u);
    if (span > *region_size || doorbell.offset() > *region_size - span) {
      return Refuse(field, ": offset ", Hex(doorbell.offset()), " is beyond its region of ",
                    Hex(*region_size), " bytes");
    }
    for (const DeviceDescription::Doorbell& other : device.doorbells) {
      if (other.region == doorbell.region() &&
          doorbell.offset() < other.offset + std::max<uint64_t>(other.size_bytes, 1) &&
          other.offset < doorbell.offset() + span) {
        return Refuse(field, ": offset ", Hex(doorbell.offset()), " overlaps another doorbell");
      }
    }
    device.doorbells.push_back({.region = static_cast<uint8_t>(doorbell.region()),
                                .offset = doorbell.offset(),
                                .size_bytes = static_cast<uint8_t>(size)});
  }
  return absl::OkStatus();
}

}  // namespace

bool DeviceDescription::has_line() const {
  return pci.has_value() ? pci->has_intx : platform->irq != 0;
}

absl::StatusOr<DeviceDescription> ValidateDeviceInfo(const v1::DeviceInfo& info) {
  if (info.contract_version() != kContractVersion) {
    return Refuse("contract_version is ", info.contract_version(), ", this vmm needs ",
                  kContractVersion, ": build both from one source");
  }
  DeviceDescription device;
  RETURN_IF_ERROR(CheckName("model", info.model()));
  device.model = info.model();
  device.uses_dma = info.uses_dma();
  device.lends_descriptors = info.lends_descriptors();
  switch (info.placement_case()) {
    case v1::DeviceInfo::kPci: {
      ASSIGN_OR_RETURN(device.pci, ValidatePci(info.pci()));
      break;
    }
    case v1::DeviceInfo::kPlatform: {
      ASSIGN_OR_RETURN(device.platform, ValidatePlatform(info.platform()));
      break;
    }
    default:
      return Refuse("neither 'pci' nor 'platform' is set");
  }
  RETURN_IF_ERROR(ValidateDoorbells(info, device));
  if (info.required_resources_size() > kMaxRequiredResources) {
    return Refuse(info.required_resources_size(), " required resources, at most ",
                  kMaxRequiredResources);
  }
  for (const std::string& name : info.required_resources()) {
    RETURN_IF_ERROR(CheckName("required_resources", name));
    device.required_resources.push_back(name);
  }
  RETURN_IF_ERROR(CheckMax("saved_state_bytes", info.saved_state_bytes(), kMaxSavedStateBytes));
  RETURN_IF_ERROR(
      CheckMax("durable_memory_bytes", info.durable_memory_bytes(), kMaxDurableMemoryBytes));
  device.saved_state_bytes = info.saved_state_bytes();
  device.durable_memory_bytes = info.durable_memory_bytes();
  device.state_version = info.state_version();
  return device;
}

std::string Difference(const DeviceDescription& a, const DeviceDescription& b) {
  if (a == b) return "";
  if (a.model != b.model) return absl::StrCat("model (", a.model, ", ", b.model, ")");
  if (a.pci.has_value() != b.pci.has_value()) return "bus";
  if (a.pci.has_value()) {
    if (a.pci->bars != b.pci->bars) return "BARs";
    if (a.pci->msix_vectors != b.pci->msix_vectors) return "number of MSI-X vectors";
    if (a.pci->has_intx != b.pci->has_intx) return "interrupt line";
    if (a.pci->capabilities != b.pci->capabilities) return "PCI capabilities";
    if (a.pci != b.pci) return "PCI identification";
  }
  if (a.platform != b.platform) return "ACPI identification, ports or IRQ";
  if (a.uses_dma != b.uses_dma) return "use of DMA";
  if (a.lends_descriptors != b.lends_descriptors) return "lending of descriptors";
  if (a.doorbells != b.doorbells) return "doorbells";
  if (a.required_resources != b.required_resources) return "required resources";
  if (a.state_version != b.state_version) {
    return absl::StrCat("state version (", a.state_version, ", ", b.state_version, ")");
  }
  return "state size";
}

}  // namespace bulkhead::vmm
