#include "devices/virtio/testing/hostile_driver.h"

#include "devices/virtio/pci_bar.h"
#include "proto/contract.h"

namespace bulkhead::devices::virtio {

void HostileDriver::Meddle(uint8_t what, uint16_t queue) {
  switch (what % 16) {
    case 5:
    case 6:
      driver_->Kick(queue);
      return;
    case 7:
      model_->OnDoorbell(what / 16);
      return;
    case 8:
      services_.RunWatches(0);
      return;
    case 9:
      while (driver_->queue(queue).PopUsed().has_value()) {
      }
      return;
    case 10:  // a descriptor of the ring or of the indirect tables becomes something else
      driver_->queue(queue).WriteDescriptor(what / 16, AnyDescriptor());
      return;
    case 11:
      driver_->queue(queue).MakeAvailable(static_cast<uint16_t>(input_.Take(1) % 17));
      return;
    case 12:  // headers, ranges and tables change under the device
      services_.memory().WriteObject(kArena + input_.Take(2) % (arena_size_ - 8), input_.Take(8));
      return;
    case 13:
      model_->OnFunctionState({.bus_master = (what & 0x10) != 0, .msix_enabled = what > 127});
      return;
    case 14:
      Register();
      return;
    default:
      if (what == 0xff) {
        Require(driver_->Reset(), "a reset ends");
        Reinitialize();
      } else if (what == 0xef) {
        driver_->queue(queue).SetAvailableIdx(static_cast<uint16_t>(input_.Take(2)));
      }
      return;
  }
}

void HostileDriver::CheckUntouched() {
  for (uint64_t i = 0; i < 4096; i += 8) {
    uint64_t value = 1;
    services_.memory().ReadObject(kUntouchable + i, value);
    Require(value == 0, "memory was written that no chain has named");
  }
}

Descriptor HostileDriver::AnyDescriptor() {
  Descriptor descriptor;
  const uint64_t choice = input_.Take(1);
  descriptor.address =
      choice % 8 == 0 ? kMemorySize + input_.Take(8) % (uint64_t{1} << 62) : AnyArenaAddress();
  descriptor.length = static_cast<uint32_t>(input_.Take(2) % kMaxBuffer);
  descriptor.flags = static_cast<uint16_t>(choice / 8 % 8);
  descriptor.next = static_cast<uint16_t>(input_.Take(1) % 17);
  return descriptor;
}

GuestAddress HostileDriver::AnyArenaAddress() {
  return kArena + input_.Take(2) % (arena_size_ - kMaxBuffer);
}

void HostileDriver::AddChain(uint16_t queue, const std::vector<Buffer>& buffers) {
  if (input_.Take(1) % 4 == 1) {
    driver_->queue(queue).AddIndirect(buffers, AnyArenaAddress() & ~GuestAddress{15});
  } else {
    driver_->queue(queue).Add(buffers);
  }
}

void HostileDriver::Register() {
  const uint8_t size = uint8_t{1} << (input_.Take(1) % 4);
  const bool window = input_.Take(1) % 8 == 0;
  const uint8_t region = window ? kCapabilityRegionBase + 4 : 0;
  // Mostly the common configuration.
  uint64_t offset = window ? input_.Take(1) % 24 : input_.Take(1) % 72;
  if (!window && input_.Take(1) % 4 == 0) offset = input_.Take(2) % (kBarSize - 8);
  if (input_.Take(1) % 4 == 0) {
    model_->Read(region, offset, size);
  } else {
    model_->Write(region, offset, size, input_.Take(size));
  }
}

}  // namespace bulkhead::devices::virtio
