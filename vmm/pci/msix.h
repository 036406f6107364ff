#ifndef BULKHEAD_VMM_PCI_MSIX_H_
#define BULKHEAD_VMM_PCI_MSIX_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/memory/io_handler.h"
#include "vmm/pci/warn_once.h"

namespace bulkhead::vmm {

// The MSI-X table and PBA of one function ([PCI] 6.8.2): the contents of a BAR, the table at its
// start and the PBA after it.
//
// Each vector has an eventfd, which the device signals. While the vector may be delivered, the
// eventfd is bound: the kernel sends the message for each signal without the vmm. Otherwise it is
// unbound and holds the pending event, which is the PBA bit.
//
// A message is delivered while MSI-X is enabled, neither the function nor the vector is masked,
// and the function is bus master ([PCIe] 7.5.1.1.3: otherwise MSI-X messages are disabled, too).
//
// Accesses to the table are aligned dwords or qwords ([PCI] 6.8.2). Other reads return the bytes,
// other writes are dropped. Thread-safe; calls only `routing` under its lock.
class Msix final : public IoHandler {
 public:
  struct Control {
    bool enabled = false;
    bool function_mask = false;
    bool bus_master = false;
  };

  // `event_fds`: one for each vector, 1 to 2048, borrowed. `routing` must outlive the object.
  // `name` is for messages. Errors: those of EventRouting::ReserveMsis.
  static absl::StatusOr<std::unique_ptr<Msix>> Create(std::string name,
                                                      const std::vector<int>& event_fds,
                                                      EventRouting& routing);
  ~Msix() override;

  // In bytes.
  static uint32_t PbaOffset(uint32_t vectors);
  static uint32_t BarSize(uint32_t vectors);

  void SetControl(const Control& control);

  // Sets the state after reset: not enabled, every vector masked and without a message.
  void Reset();
  // Discards the events of vectors that may not be delivered now.
  void DiscardPending();

  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override;
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override;

 private:
  struct Vector {
    int event_fd = -1;
    MsiMessage message;
    bool masked = true;           // the state after reset ([PCI] 6.8.2.9)
    std::optional<uint32_t> gsi;  // of `message`, while it is bound
  };

  Msix(std::string name, std::vector<Vector> vectors, EventRouting& routing);

  uint32_t ReadDword(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t ReadPending(uint32_t first) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteDword(Vector& vector, uint32_t field, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Binds or unbinds according to the registers.
  void Update(Vector& vector) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unbind(Vector& vector) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  EventRouting& routing_;
  const uint32_t table_bytes_;
  absl::Mutex mutex_;
  bool deliverable_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Vector> vectors_ ABSL_GUARDED_BY(mutex_);
  WarnOnce warn_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_MSIX_H_
