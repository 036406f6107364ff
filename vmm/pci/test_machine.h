#ifndef BULKHEAD_VMM_PCI_TEST_MACHINE_H_
#define BULKHEAD_VMM_PCI_TEST_MACHINE_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "base/event_fd.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/pci/fake_event_routing.h"
#include "vmm/pci/function_spec.h"
#include "vmm/pci/mmio_windows.h"
#include "vmm/pci/pci_host.h"

namespace bulkhead::vmm {

// A PCI host on fake interrupt routing, with the accesses of a guest, for tests. The accesses are
// those of vCPU 0 and thread-compatible; another thread must use its own Views.
struct TestMachine {
  TestMachine() : host(*PciHost::Create(memory, ports, routing, kWindows)) {}

  static constexpr GuestAddress kHighStart = layout::kMmio64MinStart;
  inline static const MmioWindows kWindows = MmioWindows::ForHighStart(kHighStart);

  static GuestAddress EcamAddress(uint32_t slot, uint32_t offset) {
    return layout::kEcamStart + (slot << 15) + offset;
  }
  uint32_t ReadConfig(uint32_t slot, uint32_t offset, uint8_t size_bytes = 4) {
    return static_cast<uint32_t>(memory_view.Read(0, EcamAddress(slot, offset), size_bytes));
  }
  void WriteConfig(uint32_t slot, uint32_t offset, uint32_t value, uint8_t size_bytes = 4) {
    memory_view.Write(0, EcamAddress(slot, offset), size_bytes, value);
  }

  // Creates an eventfd, which the machine owns.
  int NewEvent() {
    events.push_back(*EventFd::Create());
    return events.back().fd();
  }
  // The eventfd with that descriptor.
  const EventFd& Event(int fd) const {
    for (const EventFd& event : events) {
      if (event.fd() == fd) return event;
    }
    abort();  // a mistake in the test
  }

  AddressSpace memory;
  AddressSpace ports;
  FakeEventRouting routing;
  std::vector<EventFd> events;
  std::unique_ptr<PciHost> host;
  AddressSpace::View memory_view{memory};
  AddressSpace::View port_view{ports};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_TEST_MACHINE_H_
