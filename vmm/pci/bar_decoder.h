#ifndef BULKHEAD_VMM_PCI_BAR_DECODER_H_
#define BULKHEAD_VMM_PCI_BAR_DECODER_H_

#include <stddef.h>
#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/guest_memory.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/io_handler.h"
#include "vmm/pci/mmio_windows.h"

namespace bulkhead::vmm {

// Decides which BARs are decoded at which guest-physical addresses, and keeps the address space
// and the doorbells consistent with that.
//
// The guest may point a BAR anywhere. A BAR is decoded only
// - wholly inside one of the host bridge's windows, which hold no RAM, ECAM, IOAPIC or local
//   APIC. Elsewhere it is not decoded, as a BAR outside its bridge's window on hardware;
// - where no other BAR is decoded. The later BAR waits until the range is free and is then decoded:
//   a guest may swap two BARs in any order.
//
// Thread-safe. One lock serves all functions. Only the vmm's own tables and KVM are called under
// it, so a device that hangs delays no caller. Functions call with their own lock held.
class BarDecoder {
 public:
  // An offset in the BAR where a write signals the device from inside the kernel.
  struct Doorbell {
    uint64_t offset = 0;
    uint32_t size_bytes = 0;  // 0: any width
    int event_fd = -1;        // borrowed
  };
  struct Bar {
    std::string name;  // for messages: "disk0 BAR 2"
    uint64_t size_bytes = 0;
    IoHandler* handler = nullptr;  // borrowed; outlives every access
    std::vector<Doorbell> doorbells;
  };
  using BarId = size_t;

  // Both are borrowed and must outlive the decoder.
  BarDecoder(AddressSpace& memory, EventRouting& routing, const MmioWindows& windows);
  ~BarDecoder();
  BarDecoder(const BarDecoder&) = delete;
  BarDecoder& operator=(const BarDecoder&) = delete;

  BarId Add(Bar bar);

  // Sets the address that the guest requests for the BAR, or none. Does nothing if it is unchanged.
  void Decode(BarId id, std::optional<GuestAddress> address);
  // True if accesses at the requested address reach the BAR.
  bool IsDecoded(BarId id) const;

 private:
  struct Entry {
    Bar bar;
    std::optional<GuestAddress> requested;
    bool decoded = false;
    bool warned = false;
    std::vector<bool> bound;  // by doorbell
  };

  bool IsFree(GuestAddress start, uint64_t size_bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Map(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unmap(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Check(Entry& entry, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  AddressSpace& memory_;
  EventRouting& routing_;
  const MmioWindows windows_;
  mutable absl::Mutex mutex_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_BAR_DECODER_H_
