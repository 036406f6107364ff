#include "devices/example/example_device.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "proto/contract.h"

namespace bulkhead::devices::example {
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

// Occupies the model's thread, which a device must not do: that is what it is for.
void BeBusy(uint32_t microseconds) {
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::microseconds(std::min(microseconds, kBusyMaxMicroseconds));
  while (std::chrono::steady_clock::now() < end) {
  }
}

}  // namespace

ExampleDevice::ExampleDevice() : memory_(kMemoryBarSize) {}

v1::PciInfo ExampleDevice::Describe() const {
  v1::PciInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("example");

  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(kVendorId);
  pci.set_device_id(kDeviceId);
  pci.set_class_code(kClassCode);
  pci.set_revision_id(kVersion);
  pci.set_subsystem_vendor_id(kSubsystemVendorId);
  pci.set_subsystem_id(kSubsystemId);
  pci.set_msix_vectors(kMsixVectors);
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
  return info;
}

absl::Status ExampleDevice::Start(DeviceServices& services) {
  services_ = &services;
  return absl::OkStatus();
}

uint64_t ExampleDevice::Read(uint8_t region, uint64_t offset, uint8_t size_bytes) {
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

void ExampleDevice::Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (const absl::Span<uint8_t> bytes = PlainBytes(region, offset, size_bytes); !bytes.empty()) {
    memcpy(bytes.data(), &value, bytes.size());
    return;
  }
  if (region == kRegisterBar) WriteRegister(offset, size_bytes, value);
}

void ExampleDevice::OnDoorbell(uint32_t index) {
  if (index != 0) return;
  ++doorbell_count_;
  doorbell_order_ = order_next_;
}

void ExampleDevice::OnFunctionState(const FunctionState& state) {
  function_state_ = state;
  UpdateIntx();
}

absl::Span<uint8_t> ExampleDevice::PlainBytes(uint8_t region, uint64_t offset, uint8_t size_bytes) {
  absl::Span<uint8_t> all;
  uint64_t start = 0;
  if (region == kRegisterBar) {
    all = absl::MakeSpan(scratch_);
    start = kScratchOffset;
  } else if (region == kMemoryBar) {
    all = absl::MakeSpan(memory_);
  } else if (region == kCapabilityRegion) {
    all = absl::MakeSpan(capability_scratch_);
    start = kCapabilityScratchOffset;
  }
  if (offset < start || offset - start > all.size() || size_bytes > all.size() - (offset - start)) {
    return {};
  }
  return all.subspan(offset - start, size_bytes);
}

uint64_t ExampleDevice::ReadRegister(uint64_t offset, uint8_t size_bytes) const {
  if (size_bytes == 8) {
    if (offset == kDmaSourceOffset) return dma_source_;
    if (offset == kDmaDestinationOffset) return dma_destination_;
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
      return order_next_;
    case kOrderViolationsOffset:
      return order_violations_;
    case kDoorbellCountOffset:
      return doorbell_count_;
    case kDoorbellOrderOffset:
      return doorbell_order_;
    case kInterruptStatusOffset:
      return interrupt_status_;
    case kDmaSourceOffset:
      return dma_source_ & 0xffffffff;
    case kDmaSourceOffset + 4:
      return dma_source_ >> 32;
    case kDmaDestinationOffset:
      return dma_destination_ & 0xffffffff;
    case kDmaDestinationOffset + 4:
      return dma_destination_ >> 32;
    case kDmaLengthOffset:
      return dma_length_;
    case kDmaStatusOffset:
      return dma_status_;
    default:
      return kAllOnes;
  }
}

void ExampleDevice::WriteRegister(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  const bool wide = offset == kDmaSourceOffset || offset == kDmaDestinationOffset;
  if (size_bytes != 4 && !(size_bytes == 8 && wide)) return;
  const uint32_t value32 = static_cast<uint32_t>(value);
  switch (offset) {
    case kOrderNextOffset:
      CheckOrder(value32);
      break;
    case kOrderViolationsOffset:
      order_next_ = 0;
      order_violations_ = 0;
      break;
    case kDoorbellCountOffset:
      doorbell_count_ = 0;
      doorbell_order_ = 0;
      break;
    case kInterruptRaiseOffset:
      RaiseInterrupts(value32 & kInterruptCauses);
      break;
    case kInterruptAckOffset:
      interrupt_status_ &= ~value32;
      UpdateIntx();
      break;
    case kDmaSourceOffset:
    case kDmaSourceOffset + 4:
      WriteWideRegister(dma_source_, offset != kDmaSourceOffset, size_bytes, value);
      break;
    case kDmaDestinationOffset:
    case kDmaDestinationOffset + 4:
      WriteWideRegister(dma_destination_, offset != kDmaDestinationOffset, size_bytes, value);
      break;
    case kDmaLengthOffset:
      dma_length_ = value32;
      break;
    case kDmaCommandOffset:
      RunDma(value32);
      break;
    case kBusyOffset:
      BeBusy(value32);
      break;
    default:
      break;
  }
}

void ExampleDevice::CheckOrder(uint32_t value) {
  if (value != order_next_) ++order_violations_;
  order_next_ = value + 1;
}

void ExampleDevice::RaiseInterrupts(uint32_t causes) {
  interrupt_status_ |= causes;
  if (function_state_.msix_enabled) {
    // An MSI-X message is a write to memory: without bus mastering the function may not send it.
    if (!function_state_.bus_master) return;
    for (uint32_t vector = 0; vector < kMsixVectors; ++vector) {
      if ((causes & (1u << vector)) != 0) services_->SignalMsix(vector);
    }
  } else {
    UpdateIntx();
  }
}

void ExampleDevice::UpdateIntx() {
  services_->SetIntx(!function_state_.msix_enabled && interrupt_status_ != 0);
}

void ExampleDevice::RunDma(uint32_t command) {
  dma_status_ = (command & ~kDmaInterrupt) == kDmaCopy ? CopyGuestMemory() : kDmaBadCommand;
  if ((command & kDmaInterrupt) != 0) RaiseInterrupts(kDmaInterruptCause);
}

DmaStatus ExampleDevice::CopyGuestMemory() const {
  if (!function_state_.bus_master) return kDmaNotBusMaster;
  if (dma_length_ > kDmaMaxLength) return kDmaBadLength;
  const uint8_t* source = services_->memory().HostPointer(dma_source_, dma_length_);
  uint8_t* destination = services_->memory().HostPointer(dma_destination_, dma_length_);
  if (source == nullptr || destination == nullptr) return kDmaBadAddress;
  memmove(destination, source, dma_length_);
  return kDmaDone;
}

}  // namespace bulkhead::devices::example
