#include "vmm/acpi/acpi_registers.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kPm1StatusOffset = layout::kPm1Event - layout::kAcpiPort;
constexpr uint64_t kPm1EnableOffset = kPm1StatusOffset + 2;
constexpr uint64_t kPm1ControlOffset = layout::kPm1Control - layout::kAcpiPort;
constexpr uint64_t kGpeStatusOffset = layout::kGpe0 - layout::kAcpiPort;
constexpr uint64_t kGpeEnableOffset = kGpeStatusOffset + 1;

constexpr uint16_t kPowerButton = 1 << 8;
// Timer, global lock, both buttons, clock: guests check that the bits that they set read back.
constexpr uint16_t kPm1Enables = 0x0721;
constexpr uint16_t kSciEnabled = 1 << 0;
constexpr uint16_t kPm1Controls = 0x1c02;  // the bits that are stored: BM_RLD, SLP_TYP
constexpr uint8_t kWake = 1 << layout::kWakeGpe;

// Replaces the byte of `word` that lies at `offset`, 0 or 1.
uint16_t WithByte(uint16_t word, uint64_t offset, uint8_t value) {
  return static_cast<uint16_t>(offset == 0 ? (word & 0xff00) | value
                                           : (word & 0x00ff) | value << 8);
}

}  // namespace

uint64_t AcpiRegisters::Read(Waiter, uint64_t offset, uint8_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  uint64_t value = 0;
  for (uint8_t i = 0; i < size_bytes; ++i) value |= uint64_t{ReadByte(offset + i)} << 8 * i;
  return value;
}

void AcpiRegisters::Write(Waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  absl::MutexLock lock(&mutex_);
  const bool button_was_enabled = (pm1_enable_ & kPowerButton) != 0;
  for (uint8_t i = 0; i < size_bytes; ++i) {
    WriteByte(offset + i, static_cast<uint8_t>(value >> 8 * i));
  }
  if (!button_was_enabled && (pm1_enable_ & kPowerButton) != 0 && kept_press_) {
    kept_press_ = false;
    pm1_status_ |= kPowerButton;
  }
  // An edge if any event is active after the write: no event is lost, and one edge too many is
  // harmless.
  if (is_active()) raise_sci_();
}

uint8_t AcpiRegisters::ReadByte(uint64_t offset) const {
  switch (offset) {
    case kPm1StatusOffset:
    case kPm1StatusOffset + 1:
      return static_cast<uint8_t>(pm1_status_ >> 8 * (offset - kPm1StatusOffset));
    case kPm1EnableOffset:
    case kPm1EnableOffset + 1:
      return static_cast<uint8_t>(pm1_enable_ >> 8 * (offset - kPm1EnableOffset));
    case kPm1ControlOffset:
    case kPm1ControlOffset + 1:
      return static_cast<uint8_t>((pm1_control_ | kSciEnabled) >> 8 * (offset - kPm1ControlOffset));
    case kGpeStatusOffset:
      return gpe_status_;
    case kGpeEnableOffset:
      return gpe_enable_;
    default:
      return 0;
  }
}

void AcpiRegisters::WriteByte(uint64_t offset, uint8_t value) {
  switch (offset) {
    case 0:
      if (value == layout::kAcpiResetValue) {
        end_.Report({EndReason::kReset, "the guest asked for a reset"});
        break;
      }
      [[fallthrough]];
    case kPm1ControlOffset + 1:
      if (value == layout::kAcpiS5Value) {
        end_.Report({EndReason::kPowerOff, "the guest powered off"});
      } else if (offset != 0) {
        pm1_control_ = WithByte(pm1_control_, 1, value) & kPm1Controls;
      }
      break;
    case kPm1StatusOffset:
    case kPm1StatusOffset + 1:  // a one clears
      pm1_status_ &= static_cast<uint16_t>(~(value << 8 * (offset - kPm1StatusOffset)));
      break;
    case kPm1EnableOffset:
    case kPm1EnableOffset + 1:
      pm1_enable_ = WithByte(pm1_enable_, offset - kPm1EnableOffset, value) & kPm1Enables;
      break;
    case kPm1ControlOffset:
      pm1_control_ = WithByte(pm1_control_, 0, value) & kPm1Controls;
      break;
    case kGpeStatusOffset:
      gpe_status_ &= static_cast<uint8_t>(~value);
      break;
    case kGpeEnableOffset:
      gpe_enable_ = value & kWake;
      break;
    default:
      break;
  }
}

bool AcpiRegisters::is_active() const {
  return (pm1_status_ & pm1_enable_) != 0 || (gpe_status_ & gpe_enable_) != 0;
}

bool AcpiRegisters::PressPowerButton() {
  absl::MutexLock lock(&mutex_);
  if ((pm1_enable_ & kPowerButton) == 0) {
    kept_press_ = true;
    return false;
  }
  pm1_status_ |= kPowerButton;
  raise_sci_();
  return true;
}

void AcpiRegisters::Wake() {
  absl::MutexLock lock(&mutex_);
  gpe_status_ |= kWake;
  if ((gpe_enable_ & kWake) != 0) raise_sci_();
}

}  // namespace bulkhead::vmm
