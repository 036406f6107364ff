#include "vmm/pci/device_function.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {
namespace {

bool SameState(const FunctionState& a, const FunctionState& b) {
  return a.bus_master == b.bus_master && a.msix_enabled == b.msix_enabled &&
         a.intx_disabled == b.intx_disabled;
}

uint16_t BarRegister(uint8_t index) { return pci::kBar0 + 4 * index; }

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceFunction>> DeviceFunction::Create(const FunctionSpec& spec,
                                                                       uint32_t slot,
                                                                       const Surroundings& around) {
  const FunctionLayout layout = LayOut(spec.function);
  std::unique_ptr<Msix> msix;
  if (spec.function.msix_vectors != 0) {
    ASSIGN_OR_RETURN(msix, Msix::Create(absl::StrCat("device ", spec.name, ": MSI-X"),
                                        spec.msix_event_fds, around.routing));
  }
  std::unique_ptr<DeviceFunction> function(
      new DeviceFunction(spec, layout, slot, around, std::move(msix)));
  RETURN_IF_ERROR(function->EnableIntx());
  return function;
}

DeviceFunction::DeviceFunction(const FunctionSpec& spec, const FunctionLayout& layout,
                               uint32_t slot, const Surroundings& around,
                               std::unique_ptr<Msix> msix)
    : name_(spec.name),
      device_(around.device),
      decoder_(around.decoder),
      msix_capability_(layout.msix_capability),
      advanced_features_(layout.advanced_features),
      forwarded_(spec.function, layout),
      msix_(std::move(msix)),
      warn_(absl::StrCat("device ", spec.name, ": INTx")) {
  absl::MutexLock lock(&mutex_);
  SetUpHeader(spec, slot);
  SetUpCapabilities(spec, layout);
  for (const DeviceDescription::Bar& bar : spec.function.bars) {
    regions_.push_back(
        std::make_unique<DeviceRegion>(device_, bar.index, DeviceRegion::Writes::kPosted));
    AddBar(bar, regions_.back().get(), spec);
  }
  if (msix_ != nullptr) {
    const uint32_t vectors = spec.function.msix_vectors;
    AddBar({.index = *layout.msix_bar, .size_bytes = Msix::BarSize(vectors)}, msix_.get(), spec);
  }
  if (spec.intx.has_value()) {
    intx_.emplace(Intx::GsiOfSlot(slot), spec.intx->event_fd, spec.intx->resample_fd,
                  around.routing);
  }
  reset_registers_ = registers_;
}

DeviceFunction::~DeviceFunction() {
  for (const Bar& bar : bars_) decoder_.Decode(bar.id, std::nullopt);
}

absl::Status DeviceFunction::EnableIntx() {
  absl::MutexLock lock(&mutex_);
  return intx_.has_value() ? intx_->SetUsable(true) : absl::OkStatus();
}

void DeviceFunction::SetUpHeader(const FunctionSpec& spec, uint32_t slot) {
  registers_.Set(pci::kVendorId, 2, spec.function.vendor_id);
  registers_.Set(pci::kDeviceId, 2, spec.function.device_id);
  registers_.Set(pci::kRevisionId, 1, spec.function.revision_id);
  registers_.Set(pci::kClassCode, 3, spec.function.class_code);
  registers_.Set(pci::kSubsystemVendorId, 2, spec.function.subsystem_vendor_id);
  registers_.Set(pci::kSubsystemId, 2, spec.function.subsystem_id);
  registers_.MakeWritable(
      pci::kCommand, 2,
      pci::kCommandIo | pci::kCommandMemory | pci::kCommandBusMaster | pci::kCommandIntxDisable);
  registers_.MakeWritable(pci::kCacheLineSize, 1, 0xff);  // no effect, as [PCIe] 7.5.1.1.7 says
  registers_.MakeWritable(pci::kInterruptLine, 1, 0xff);  // only guest software uses it
  if (spec.intx.has_value()) {
    registers_.Set(pci::kInterruptPin, 1, pci::kInterruptPinA);
    registers_.Set(pci::kInterruptLine, 1, Intx::GsiOfSlot(slot));
  }
}

void DeviceFunction::SetUpCapabilities(const FunctionSpec& spec, const FunctionLayout& layout) {
  uint16_t link = pci::kCapabilitiesPointer;  // the register for the next capability's offset
  if (layout.msix_capability != 0) {
    const uint16_t at = layout.msix_capability;
    const uint32_t vectors = spec.function.msix_vectors;
    registers_.Set(link, 1, at);
    registers_.Set(at, 1, pci::kCapabilityMsix);
    registers_.Set(at + pci::kMsixControl, 2, vectors - 1);
    registers_.MakeWritable(at + pci::kMsixControl, 2,
                            pci::kMsixControlEnable | pci::kMsixControlFunctionMask);
    registers_.Set(at + pci::kMsixTable, 4, *layout.msix_bar);  // at its start
    registers_.Set(at + pci::kMsixPba, 4, Msix::PbaOffset(vectors) | *layout.msix_bar);
    link = at + 1;
  }
  for (size_t i = 0; i < spec.function.capabilities.size(); ++i) {
    const DeviceDescription::Capability& capability = spec.function.capabilities[i];
    const uint16_t at = layout.device_capabilities[i];
    registers_.Set(link, 1, at);
    registers_.Set(at, 1, capability.id);
    for (size_t j = 0; j < capability.body.size(); ++j) {
      registers_.Set(static_cast<uint16_t>(at + pci::kCapabilityHeaderBytes + j), 1,
                     capability.body[j]);
    }
    link = at + 1;
  }
  const uint16_t reset = layout.advanced_features;
  registers_.Set(link, 1, reset);
  registers_.Set(reset, 1, pci::kCapabilityAdvancedFeatures);
  registers_.Set(reset + pci::kAdvancedFeaturesLength, 1, pci::kAdvancedFeaturesBytes);
  registers_.Set(reset + pci::kAdvancedFeaturesCapabilities, 1,
                 pci::kTransactionsPendingCapable | pci::kFunctionLevelResetCapable);
  registers_.Set(pci::kStatus, 2, pci::kStatusCapabilityList);
}

void DeviceFunction::AddBar(const DeviceDescription::Bar& bar, IoHandler* handler,
                            const FunctionSpec& spec) {
  // The bits below the size stay 0: a guest that writes all ones reads the size.
  const uint16_t at = BarRegister(bar.index);
  registers_.Set(
      at, 4, (bar.is_64bit ? pci::kBar64Bit : 0) | (bar.prefetchable ? pci::kBarPrefetchable : 0));
  registers_.MakeWritable(at, 4, static_cast<uint32_t>(~(bar.size_bytes - 1)));
  if (bar.is_64bit) registers_.MakeWritable(at + 4, 4, 0xffffffff);

  BarDecoder::Bar decoded = {.name = absl::StrCat("device ", spec.name, ": BAR ", bar.index),
                             .size_bytes = bar.size_bytes,
                             .handler = handler,
                             .doorbells = {}};
  for (size_t i = 0; i < spec.doorbells.size(); ++i) {
    const DeviceDescription::Doorbell& doorbell = spec.doorbells[i];
    if (doorbell.region != bar.index) continue;
    decoded.doorbells.push_back({.offset = doorbell.offset,
                                 .size_bytes = doorbell.size_bytes,
                                 .event_fd = spec.doorbell_event_fds[i]});
  }
  bars_.push_back({.index = bar.index,
                   .size_bytes = bar.size_bytes,
                   .is_64bit = bar.is_64bit,
                   .id = decoder_.Add(std::move(decoded))});
}

uint32_t DeviceFunction::ReadConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes) {
  uint32_t value = 0;
  {
    absl::MutexLock lock(&mutex_);
    value = registers_.Get(offset, size_bytes);
    if (intx_.has_value() && offset <= pci::kStatus && pci::kStatus < offset + size_bytes &&
        intx_->IsPending()) {
      value |= uint32_t{pci::kStatusInterrupt} << (8 * (pci::kStatus - offset));
    }
  }
  return forwarded_.Read(device_, waiter, offset, size_bytes, value);
}

void DeviceFunction::WriteConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes,
                                 uint32_t value) {
  const uint16_t control = advanced_features_ + pci::kAdvancedFeaturesControl;
  if (offset <= control && control < offset + size_bytes &&
      (value >> (8 * (control - offset)) & pci::kInitiateFunctionLevelReset) != 0) {
    ResetFunction(waiter);
    return;
  }
  bool switched = false;
  {
    absl::MutexLock lock(&mutex_);
    const FunctionState before = StateLocked();
    if (registers_.Write(offset, size_bytes, value)) Apply();
    switched = !SameState(before, StateLocked());
  }
  if (switched) SendState(waiter);
  forwarded_.Write(device_, waiter, offset, size_bytes, value);
}

void DeviceFunction::ResetFunction(Waiter waiter) {
  {
    absl::MutexLock lock(&mutex_);
    registers_ = reset_registers_;
    if (msix_ != nullptr) msix_->Reset();
    Apply();
  }
  device_.Reset(waiter);
  {
    // Discards the events that the device signalled before its reset.
    absl::MutexLock lock(&mutex_);
    if (msix_ != nullptr) msix_->DiscardPending();
    if (intx_.has_value()) intx_->DiscardPending();
  }
  SendState(waiter);
}

void DeviceFunction::AssignBar(uint8_t index, GuestAddress address) {
  absl::MutexLock lock(&mutex_);
  for (const Bar& bar : bars_) {
    if (bar.index != index) continue;
    registers_.Write(BarRegister(index), 4, static_cast<uint32_t>(address));
    if (bar.is_64bit) {
      registers_.Write(BarRegister(index + 1), 4, static_cast<uint32_t>(address >> 32));
    }
  }
  Apply();
}

std::vector<DeviceFunction::BarState> DeviceFunction::bars() const {
  absl::MutexLock lock(&mutex_);
  std::vector<BarState> states;
  for (const Bar& bar : bars_) {
    states.push_back({.index = bar.index,
                      .size_bytes = bar.size_bytes,
                      .is_64bit = bar.is_64bit,
                      .address = BarAddress(bar),
                      .decoded = decoder_.IsDecoded(bar.id)});
  }
  return states;
}

FunctionState DeviceFunction::state() const {
  absl::MutexLock lock(&mutex_);
  return StateLocked();
}

uint16_t DeviceFunction::command() const {
  return static_cast<uint16_t>(registers_.Get(pci::kCommand, 2));
}

GuestAddress DeviceFunction::BarAddress(const Bar& bar) const {
  const uint64_t low = registers_.Get(BarRegister(bar.index), 4) & ~pci::kBarFlags;
  if (!bar.is_64bit) return low;
  return low | static_cast<uint64_t>(registers_.Get(BarRegister(bar.index + 1), 4)) << 32;
}

FunctionState DeviceFunction::StateLocked() const {
  FunctionState state;
  state.bus_master = (command() & pci::kCommandBusMaster) != 0;
  state.intx_disabled = (command() & pci::kCommandIntxDisable) != 0;
  if (msix_ != nullptr) {
    const uint32_t control = registers_.Get(msix_capability_ + pci::kMsixControl, 2);
    state.msix_enabled = (control & pci::kMsixControlEnable) != 0;
  }
  return state;
}

void DeviceFunction::Apply() {
  const FunctionState state = StateLocked();
  for (const Bar& bar : bars_) {
    const bool enabled = (command() & pci::kCommandMemory) != 0;
    decoder_.Decode(bar.id, enabled ? std::optional(BarAddress(bar)) : std::nullopt);
  }
  if (msix_ != nullptr) {
    const uint32_t control = registers_.Get(msix_capability_ + pci::kMsixControl, 2);
    msix_->SetControl({.enabled = state.msix_enabled,
                       .function_mask = (control & pci::kMsixControlFunctionMask) != 0,
                       .bus_master = state.bus_master});
  }
  if (intx_.has_value()) {
    warn_.Check(intx_->SetUsable(!state.msix_enabled && !state.intx_disabled));
  }
}

// No lock is held during the call: a vCPU that waits for a lock could not be paused. So calls of
// several vCPUs may reach the device in any order. Yet the last call carries the last state: after
// each call its caller reads the state again, and calls once more if it has changed. A vCPU that
// changes it after that reading makes a later call itself.
void DeviceFunction::SendState(Waiter waiter) {
  FunctionState sent;
  do {
    // Sent even if another vCPU has switched the state back, so that the device gets the same state
    // again: the line was deasserted in between.
    sent = state();
    device_.SetFunctionState(waiter, sent);
  } while (!SameState(sent, state()));
}

}  // namespace bulkhead::vmm
