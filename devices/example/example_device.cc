#include "devices/example/example_device.h"

#include <string.h>

#include <type_traits>

#include "absl/strings/str_cat.h"
#include "devices/host/metrics.h"
#include "proto/contract.h"

namespace bulkhead::devices::example {

v1::DeviceInfo ExampleDevice::Describe() const {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("example");
  info.set_uses_dma(true);
  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(kVendorId);
  pci.set_device_id(kDeviceId);
  pci.set_class_code(kClassCode);
  pci.set_subsystem_vendor_id(kVendorId);
  pci.set_subsystem_id(kDeviceId);
  pci.set_msix_vectors(kMsixVectors);
  pci.set_has_intx(true);
  v1::Bar& bar = *pci.add_bars();
  bar.set_index(kBar);
  bar.set_size_bytes(kBarSize);
  v1::Doorbell& doorbell = *info.add_doorbells();
  doorbell.set_region(kBar);
  doorbell.set_offset(kDoorbellOffset);
  info.set_saved_state_bytes(sizeof(State));
  info.set_state_version(kStateVersion);
  return info;
}

absl::Status ExampleDevice::Start(DeviceServices& services) {
  services_ = &services;
  return absl::OkStatus();
}

size_t ExampleDevice::Save(absl::Span<uint8_t> out) const {
  static_assert(std::has_unique_object_representations_v<State>, "no padding");
  memcpy(out.data(), &state_, sizeof(state_));
  return sizeof(state_);
}

absl::Status ExampleDevice::Restore(absl::Span<const uint8_t> bytes) {
  State saved;
  if (bytes.size() != sizeof(saved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("saved state of ", bytes.size(), " bytes instead of ", sizeof(saved)));
  }
  memcpy(&saved, bytes.data(), sizeof(saved));
  // The process that saved it may have been compromised.
  if (saved.status > kNotBusMaster) {
    return absl::InvalidArgumentError(absl::StrCat("saved state with status ", saved.status));
  }
  state_ = saved;
  // That process may have died before it sent this. The line follows in OnFunctionState().
  if (has_result()) services_->SignalMsix(0);
  return absl::OkStatus();
}

void ExampleDevice::Reset() {
  state_ = {};
  UpdateIntx();
}

void ExampleDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "added_bytes_total", "Bytes of guest memory added up", bytes_);
}

uint64_t ExampleDevice::Read(uint8_t, uint64_t offset, uint8_t size_bytes) {
  if (size_bytes == 8 && offset == kAddressOffset) return state_.address;
  if (size_bytes == 8 && offset == kSumOffset) return state_.sum;
  if (size_bytes == 4 && offset == kIdentificationOffset) return kIdentification;
  if (size_bytes == 4 && offset == kLengthOffset) return state_.length;
  if (size_bytes == 4 && offset == kStatusOffset) return state_.status;
  return ~uint64_t{0};
}

void ExampleDevice::Write(uint8_t, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (size_bytes == 8 && offset == kAddressOffset) {
    state_.address = value;
  } else if (size_bytes == 4 && offset == kLengthOffset) {
    state_.length = static_cast<uint32_t>(value);
    state_.status = kRequested;
    UpdateIntx();
  } else if (size_bytes == 4 && offset == kStatusOffset) {
    state_.status = kIdle;
    UpdateIntx();
  } else {
    return;
  }
  services_->StateChanged();
}

void ExampleDevice::OnDoorbell(uint32_t) {
  // The host also calls this once in each process, without a ring: look whether there is work.
  if (state_.status != kRequested) return;
  state_.status = AddUp();
  services_->StateChanged();
  // A message is a write to guest memory: without bus mastering it may not be sent.
  if (function_.msix_enabled && function_.bus_master) services_->SignalMsix(0);
  UpdateIntx();
}

void ExampleDevice::OnFunctionState(const FunctionState& function) {
  function_ = function;
  UpdateIntx();
}

void ExampleDevice::UpdateIntx() { services_->SetIntx(!function_.msix_enabled && has_result()); }

// A successor may have to do this again, which changes nothing.
Status ExampleDevice::AddUp() {
  const GuestMemory& memory = services_->memory();
  if (!function_.bus_master) return kNotBusMaster;
  if (state_.length > kMaxLength) return kBadLength;
  if (!memory.Contains(state_.address, state_.length)) return kBadAddress;
  uint64_t sum = 0;
  // In parts: the bytes may lie in two ranges of memory that adjoin.
  memory.ForEachPart(state_.address, state_.length, [&](const uint8_t* part, uint64_t size_bytes) {
    for (uint64_t i = 0; i < size_bytes; ++i) sum += part[i];
  });
  state_.sum = sum;
  bytes_ += state_.length;
  return kDone;
}

}  // namespace bulkhead::devices::example
