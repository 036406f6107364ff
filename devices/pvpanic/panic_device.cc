#include "devices/pvpanic/panic_device.h"

#include <string.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/pvpanic/registers.h"
#include "proto/contract.h"

namespace bulkhead::devices::pvpanic {
namespace {

constexpr uint32_t kStateVersion = 1;

constexpr std::pair<uint8_t, VmReport::Kind> kReports[] = {
    {kCrashLoaded, VmReport::kCrashLoaded},
    {kPanicked, VmReport::kPanicked},
};
static_assert(std::size(kReports) <= kMaxUnsavedVmReports);

}  // namespace

v1::DeviceInfo PanicDevice::Describe() const {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("pvpanic");
  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(kVendorId);
  pci.set_device_id(kDeviceId);
  pci.set_class_code(kClassCode);
  pci.set_revision_id(1);
  pci.set_subsystem_vendor_id(kSubsystemVendorId);
  pci.set_subsystem_id(kSubsystemId);
  v1::Bar& bar = *pci.add_bars();
  bar.set_index(kBar);
  bar.set_size_bytes(kBarSize);
  info.add_required_resources(kVmLinkResource);
  info.set_saved_state_bytes(sizeof(uint64_t));
  info.set_state_version(kStateVersion);
  return info;
}

absl::Status PanicDevice::Start(DeviceServices& services) {
  services_ = &services;
  ASSIGN_OR_RETURN(link_, VmLink::Take(services));
  services.StateChanged();
  return absl::OkStatus();
}

size_t PanicDevice::Save(absl::Span<uint8_t> out) const {
  const uint64_t number = link_->number();
  memcpy(out.data(), &number, sizeof(number));
  return sizeof(number);
}

absl::Status PanicDevice::Restore(absl::Span<const uint8_t> bytes) {
  uint64_t number;
  if (bytes.size() != sizeof(number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("saved state of ", bytes.size(), " bytes instead of ", sizeof(number)));
  }
  memcpy(&number, bytes.data(), sizeof(number));
  link_->Restore(number);
  return absl::OkStatus();
}

void PanicDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "reports_total", "Crashes that the guest has reported.", reports_);
  AddCounter(metrics, "dropped_reports_total",
             "Reports that were dropped, since the guest makes too many.", dropped_reports_);
}

uint64_t PanicDevice::Read(uint8_t, uint64_t offset, uint8_t) {
  return offset == kEventsOffset ? kEvents : 0;
}

void PanicDevice::Write(uint8_t, uint64_t offset, uint8_t, uint64_t value) {
  if (offset != kEventsOffset) return;
  for (const auto& [event, kind] : kReports) {
    if ((value & event) == 0) continue;
    if (link_->Send(kind)) {
      ++reports_;
      services_->StateChanged();
    } else {
      ++dropped_reports_;
    }
  }
}

}  // namespace bulkhead::devices::pvpanic
