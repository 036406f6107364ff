#include "devices/rig/rig_device.h"

#include <string.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "devices/host/metrics.h"
#include "proto/contract.h"

namespace bulkhead::devices::rig {
namespace {

// Regions beside the BARs: the forwarded capability comes first in the list.
constexpr uint8_t kCapabilityRegion = kCapabilityRegionBase;
// A capability's region starts after its ID and next-pointer bytes.
constexpr uint64_t kCapabilityHeaderSize = 2;
constexpr uint64_t kCapabilityScratchOffset = 4 - kCapabilityHeaderSize;

constexpr uint64_t kAllOnes = ~uint64_t{0};

// Its ID and next pointer are the vmm's; then come the length and a reserved byte.
std::string CapabilityBody(absl::string_view last_four_bytes) {
  std::string body = {static_cast<char>(kCapabilitySize), '\0'};
  body.append(last_four_bytes.data(), last_four_bytes.size());
  return body;
}

// An 8-byte register behind an access to it or to one of its halves.
void WriteWideRegister(uint64_t& wide, bool high_half, uint8_t size_bytes, uint64_t value) {
  if (size_bytes == 8) {
    wide = value;
  } else if (high_half) {
    wide = (wide & 0xffffffff) | (value << 32);
  } else {
    wide = (wide & ~uint64_t{0xffffffff}) | value;
  }
}

}  // namespace

v1::DeviceInfo RigDevice::Describe() const {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("rig");
  info.set_uses_dma(true);

  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(kVendorId);
  pci.set_device_id(kDeviceId);
  pci.set_class_code(kClassCode);
  pci.set_revision_id(kVersion);
  pci.set_subsystem_vendor_id(kSubsystemVendorId);
  pci.set_subsystem_id(kSubsystemId);
  pci.set_msix_vectors(msix_vectors_);
  pci.set_has_intx(true);

  v1::Bar& registers = *pci.add_bars();
  registers.set_index(kRegisterBar);
  registers.set_size_bytes(kRegisterBarSize);
  v1::Bar& memory = *pci.add_bars();
  memory.set_index(kMemoryBar);
  memory.set_size_bytes(kMemoryBarSize);
  memory.set_is_64bit(true);
  memory.set_prefetchable(true);

  v1::Capability& scratch = *pci.add_capabilities();
  scratch.set_id(kVendorCapabilityId);
  scratch.set_body(CapabilityBody(absl::string_view("\0\0\0\0", 4)));
  scratch.set_forwarded(true);
  v1::Capability& constant = *pci.add_capabilities();
  constant.set_id(kVendorCapabilityId);
  constant.set_body(CapabilityBody("BULK"));

  v1::Doorbell& doorbell = *info.add_doorbells();
  doorbell.set_region(kRegisterBar);
  doorbell.set_offset(kDoorbellOffset);
  doorbell.set_size_bytes(0);

  info.set_saved_state_bytes(sizeof(State));
  info.set_durable_memory_bytes(kMemoryBarSize);
  info.set_state_version(kStateVersion);
  return info;
}

absl::Status RigDevice::Start(DeviceServices& services) {
  services_ = &services;
  memory_ = services.durable_memory();
  return misbehaver_.Start(services);
}

size_t RigDevice::Save(absl::Span<uint8_t> out) const {
  memcpy(out.data(), &state_, sizeof(state_));
  return sizeof(state_);
}

absl::Status RigDevice::Restore(absl::Span<const uint8_t> state) {
  State found;
  if (state.size() != sizeof(found)) {
    return absl::InvalidArgumentError(absl::StrCat("saved state of ", state.size(), " bytes"));
  }
  memcpy(&found, state.data(), sizeof(found));
  // The writer may have been compromised: impossible values are refused.
  if (found.dma_status > kDmaBadCommand || (found.interrupt_status & ~kInterruptCauses) != 0) {
    return absl::InvalidArgumentError("impossible saved state");
  }
  state_ = found;
  // The process before may have died before it sent these. The line follows in OnFunctionState().
  SendVectors(state_.interrupt_status);
  return absl::OkStatus();
}

void RigDevice::Reset() {
  state_ = {};
  UpdateIntx();
}

void RigDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "dma_bytes_total", "Bytes copied by DMA", dma_bytes_);
}

uint64_t RigDevice::Read(uint8_t region, uint64_t offset, uint8_t size_bytes) {
  if (const absl::Span<uint8_t> bytes = PlainBytes(region, offset, size_bytes); !bytes.empty()) {
    uint64_t value = 0;
    memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  if (region == kRegisterBar) return ReadRegister(offset, size_bytes);
  if (region == kCapabilityRegion) {
    // The constant head of the forwarded capability: its length, then zero.
    return offset == 0 ? kCapabilitySize : 0;
  }
  return kAllOnes;
}

void RigDevice::Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (const absl::Span<uint8_t> bytes = PlainBytes(region, offset, size_bytes); !bytes.empty()) {
    memcpy(bytes.data(), &value, bytes.size());
    if (region != kMemoryBar) services_->StateChanged();
    return;
  }
  if (region == kRegisterBar) WriteRegister(offset, size_bytes, value);
}

void RigDevice::OnDoorbell(uint32_t index) {
  if (index != 0) return;
  ++state_.doorbell_count;
  state_.doorbell_order = state_.order_next;
  services_->StateChanged();
}

void RigDevice::OnFunctionState(const FunctionState& state) {
  function_state_ = state;
  UpdateIntx();
}

absl::Span<uint8_t> RigDevice::PlainBytes(uint8_t region, uint64_t offset, uint8_t size_bytes) {
  absl::Span<uint8_t> all;
  uint64_t start = 0;
  if (region == kRegisterBar) {
    all = absl::MakeSpan(state_.scratch);
    start = kScratchOffset;
  } else if (region == kMemoryBar) {
    all = memory_;
  } else if (region == kCapabilityRegion) {
    all = absl::MakeSpan(state_.capability_scratch);
    start = kCapabilityScratchOffset;
  }
  if (offset < start || offset - start > all.size() || size_bytes > all.size() - (offset - start)) {
    return {};
  }
  return all.subspan(offset - start, size_bytes);
}

uint64_t RigDevice::ReadRegister(uint64_t offset, uint8_t size_bytes) {
  if (size_bytes == 8) {
    if (offset == kDmaSourceOffset) return state_.dma_source;
    if (offset == kDmaDestinationOffset) return state_.dma_destination;
    if (offset == kSumOffset) return state_.sum;
  }
  // The one place that may be read with any width: what rings is the address.
  if (offset == kDoorbellOffset) return 0;
  if (size_bytes != 4) return kAllOnes;
  switch (offset) {
    case kIdentificationOffset:
      return kIdentification;
    case kVersionOffset:
      return kVersion;
    case kFunctionStateOffset:
      return (function_state_.bus_master ? kFunctionStateBusMaster : 0) |
             (function_state_.msix_enabled ? kFunctionStateMsixEnabled : 0);
    case kOrderNextOffset:
      return state_.order_next;
    case kOrderViolationsOffset:
      return state_.order_violations;
    case kDoorbellCountOffset:
      return state_.doorbell_count;
    case kDoorbellOrderOffset:
      return state_.doorbell_order;
    case kInterruptStatusOffset:
      return state_.interrupt_status;
    case kDmaSourceOffset:
      return state_.dma_source & 0xffffffff;
    case kDmaSourceOffset + 4:
      return state_.dma_source >> 32;
    case kDmaDestinationOffset:
      return state_.dma_destination & 0xffffffff;
    case kDmaDestinationOffset + 4:
      return state_.dma_destination >> 32;
    case kDmaLengthOffset:
      return state_.dma_length;
    case kDmaStatusOffset:
      return state_.dma_status;
    case kTakeOffset:
      services_->StateChanged();
      return ++state_.taken;
    default:
      return kAllOnes;
  }
}

void RigDevice::WriteRegister(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  const bool wide =
      offset == kDmaSourceOffset || offset == kDmaDestinationOffset || offset == kSumOffset;
  if (size_bytes != 4 && !(size_bytes == 8 && wide)) return;
  const uint32_t value32 = static_cast<uint32_t>(value);
  if (misbehaver_.Write(offset, value32)) return;
  switch (offset) {
    case kOrderNextOffset:
      CheckOrder(value32);
      break;
    case kOrderViolationsOffset:
      state_.order_next = 0;
      state_.order_violations = 0;
      break;
    case kDoorbellCountOffset:
      state_.doorbell_count = 0;
      state_.doorbell_order = 0;
      break;
    case kInterruptRaiseOffset:
      RaiseInterrupts(value32 & kInterruptCauses);
      break;
    case kInterruptAckOffset:
      state_.interrupt_status &= ~value32;
      UpdateIntx();
      break;
    case kDmaSourceOffset:
    case kDmaSourceOffset + 4:
      WriteWideRegister(state_.dma_source, offset != kDmaSourceOffset, size_bytes, value);
      break;
    case kDmaDestinationOffset:
    case kDmaDestinationOffset + 4:
      WriteWideRegister(state_.dma_destination, offset != kDmaDestinationOffset, size_bytes, value);
      break;
    case kDmaLengthOffset:
      state_.dma_length = value32;
      break;
    case kDmaCommandOffset:
      RunDma(value32);
      break;
    case kSumOffset:
      if (size_bytes == 8) state_.sum += value;
      break;
    case kTakeOffset:
      state_.taken = 0;
      break;
    default:
      return;
  }
  services_->StateChanged();
}

void RigDevice::CheckOrder(uint32_t value) {
  if (value != state_.order_next) ++state_.order_violations;
  state_.order_next = value + 1;
}

void RigDevice::RaiseInterrupts(uint32_t causes) {
  state_.interrupt_status |= causes;
  if (function_state_.msix_enabled) {
    // An MSI-X message is a write to memory: without bus mastering the function may not send it.
    if (function_state_.bus_master) SendVectors(causes);
  } else {
    UpdateIntx();
  }
}

void RigDevice::SendVectors(uint32_t causes) {
  for (uint32_t vector = 0; vector < kMsixVectors; ++vector) {
    if ((causes & (1u << vector)) != 0) services_->SignalMsix(vector);
  }
}

void RigDevice::UpdateIntx() {
  services_->SetIntx(!function_state_.msix_enabled && state_.interrupt_status != 0);
}

void RigDevice::RunDma(uint32_t command) {
  state_.dma_status = (command & ~kDmaInterrupt) == kDmaCopy ? CopyGuestMemory() : kDmaBadCommand;
  if ((command & kDmaInterrupt) != 0) RaiseInterrupts(kDmaInterruptCause);
}

DmaStatus RigDevice::CopyGuestMemory() {
  if (!function_state_.bus_master) return kDmaNotBusMaster;
  if (state_.dma_length > kDmaMaxLength) return kDmaBadLength;
  // By guest addresses: the bytes may lie in two ranges that adjoin, which the guest does not know.
  const GuestMemory& memory = services_->memory();
  const GuestAddress source = state_.dma_source;
  GuestAddress destination = state_.dma_destination;
  const uint64_t length = state_.dma_length;
  if (!memory.Contains(source, length) || !memory.Contains(destination, length)) {
    return kDmaBadAddress;
  }
  // A successor may have to do it again, which must change nothing: so the source must stay.
  if (source < destination + length && destination < source + length) return kDmaBadAddress;
  memory.ForEachPart(source, length, [&](const uint8_t* host, uint64_t size_bytes) {
    memory.Write(destination, {host, size_bytes});
    destination += size_bytes;
  });
  dma_bytes_ += state_.dma_length;
  return kDmaDone;
}

}  // namespace bulkhead::devices::rig
