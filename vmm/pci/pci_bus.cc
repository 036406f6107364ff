#include "vmm/pci/pci_bus.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/access_mask.h"
#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {
namespace {

// The bytes of an access at `offset` that lie in its first dword.
uint8_t BytesInFirstDword(uint32_t offset, uint8_t size_bytes) {
  return static_cast<uint8_t>(std::min<uint32_t>(size_bytes, 4 - (offset & 3)));
}

// Advances by `bytes`, across the end of one function's space into the next one's.
void Advance(ConfigAddress& address, uint8_t bytes) {
  address.offset += bytes;
  if (address.offset < pci::kConfigBytes) return;
  address.offset = 0;
  address.function = (address.function + 1) & 7;
  if (address.function != 0) return;
  address.device = (address.device + 1) & 31;
  if (address.device == 0) ++address.bus;
}

}  // namespace

absl::Status PciBus::Add(uint32_t slot, ConfigSpace* function) {
  if (slot >= slots_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("PCI slot ", slot, " is out of range (0 to ", slots_.size() - 1, ")"));
  }
  if (slots_[slot] != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("PCI slot ", slot, " is already in use"));
  }
  slots_[slot] = function;
  return absl::OkStatus();
}

ConfigSpace* PciBus::FunctionAt(const ConfigAddress& address) const {
  if (address.bus != 0 || address.function != 0 || address.device >= slots_.size()) return nullptr;
  return slots_[address.device];
}

uint64_t PciBus::Read(Waiter waiter, ConfigAddress address, uint8_t size_bytes) const {
  uint64_t value = 0;
  for (uint8_t done = 0; done < size_bytes;) {
    const uint8_t piece = BytesInFirstDword(address.offset, size_bytes - done);
    ConfigSpace* const function = FunctionAt(address);
    const uint64_t bits = function != nullptr ? function->ReadConfig(waiter, address.offset, piece)
                                              : AccessMask(piece);
    value |= bits << (8 * done);
    done += piece;
    Advance(address, piece);
  }
  return value;
}

void PciBus::Write(Waiter waiter, ConfigAddress address, uint8_t size_bytes, uint64_t value) const {
  for (uint8_t done = 0; done < size_bytes;) {
    const uint8_t piece = BytesInFirstDword(address.offset, size_bytes - done);
    if (ConfigSpace* const function = FunctionAt(address)) {
      const uint32_t bits = static_cast<uint32_t>(value >> (8 * done) & AccessMask(piece));
      function->WriteConfig(waiter, address.offset, piece, bits);
    }
    done += piece;
    Advance(address, piece);
  }
}

}  // namespace bulkhead::vmm
