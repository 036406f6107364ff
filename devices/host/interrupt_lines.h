#ifndef BULKHEAD_DEVICES_HOST_INTERRUPT_LINES_H_
#define BULKHEAD_DEVICES_HOST_INTERRUPT_LINES_H_

#include <stddef.h>
#include <stdint.h>

#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "devices/host/device_model.h"
#include "proto/channel/trace_ring.h"

namespace bulkhead::devices {

// The interrupts of one device: which of them may reach the guest now, as the PCI
// specifications want it. Single-threaded.
//
// MSI-X (PCI Local Bus 3.0, 6.8.2 and 6.2.2):
// - disabled: nothing may be sent, and nothing is kept: a device signals by its line then.
// - enabled but no bus master: a message is a memory write, which may not start yet. It is kept
//   and sent once the function becomes bus master, as a real function would hold it back.
// - masked vectors are the vmm's affair: it keeps the eventfd's count pending.
// INTx (6.2.4, 6.8.3.3): silent while MSI-X is enabled. The level is remembered: a level that is
// true when MSI-X is disabled asserts the line then.
// INTx Disable (6.2.2): the vmm has unbound the line's eventfd. Its event does not reach the guest;
// the vmm shows it as Interrupt Status (6.2.3) as long as the level is true.
//
// None of this is saved: a model that restores its state raises again what the guest has not
// acknowledged, and so comes to the same level and the same held-back vectors.
class InterruptLines {
 public:
  struct Events {
    std::vector<EventFd> msix_vectors;
    UniqueFd intx;           // not ok(): no line
    UniqueFd intx_resample;  // ok(): the line is level-triggered; else edge-triggered
  };

  explicit InterruptLines(Events events);
  void SetTrace(const channel::TraceRecorder& trace) { trace_ = trace; }

  void SignalMsix(uint32_t vector);
  void SetIntx(bool level);
  void OnFunctionState(const FunctionState& state);

  // Call after the model has restored its state, and so raised its interrupts again: takes back an
  // event that the predecessor signalled and that this state does not have.
  void DropStaleEvents();
  // The model has been reset: it signals nothing, and nothing is held back.
  void Reset();

  // The eventfd of a vector; -1: there is none.
  int vector_fd(uint32_t vector) const {
    return vector < msix_vectors_.size() ? msix_vectors_[vector].fd() : -1;
  }

  uint64_t msix_signals() const { return msix_signals_; }
  uint64_t line_signals() const { return line_signals_; }

  // Readable when the guest has acknowledged the line: call OnResample(). -1: none.
  int resample_fd() const { return is_level_triggered_ ? intx_resample_.fd() : -1; }
  // KVM has taken the line down: it goes up again while the level is still true.
  void OnResample();

 private:
  // Of a disabled line too: see above.
  bool MaySignalLine() const { return has_line_ && !state_.msix_enabled; }
  void SignalVector(size_t vector);
  void SignalLine();

  const std::vector<EventFd> msix_vectors_;
  const bool has_line_;
  const bool is_level_triggered_;
  const EventFd intx_;
  const EventFd intx_resample_;

  channel::TraceRecorder trace_;
  FunctionState state_;
  bool level_ = false;
  std::vector<bool> held_back_;  // by vector: sent once the function is bus master
  uint64_t msix_signals_ = 0;
  uint64_t line_signals_ = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_INTERRUPT_LINES_H_
