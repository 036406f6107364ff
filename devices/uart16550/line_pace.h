#ifndef BULKHEAD_DEVICES_UART16550_LINE_PACE_H_
#define BULKHEAD_DEVICES_UART16550_LINE_PACE_H_

#include <stdint.h>

#include "absl/time/time.h"
#include "devices/uart16550/uart_registers.h"

namespace bulkhead::devices::uart16550 {

// The timing that UartRegisters leaves out: when a burst of an interrupt handler is cut off, how
// long the line stays quiet then, and when a driver that never asserts RTS gets its input. Pure:
// the caller gives the time. Thread-compatible.
//
// A handler runs with interrupts off. Its burst is cut off after kMaxBurst, or after kMinBurstBytes
// where these take longer. The quiet phase that follows lasts an eighth of the burst, counted from
// the guest's last access. So a guest that only serves its serial port keeps a ninth of its
// processor for the rest, whether an access takes 10 us or 500 us on this host. A burst has at
// least 76 accesses, so the three or four that the handler makes after the cut take less than an
// eighth.
class LinePace {
 public:
  static constexpr absl::Duration kMaxBurst = absl::Milliseconds(2);
  static constexpr uint32_t kMinBurstBytes = 4 * UartRegisters::kFifoBytes;
  static constexpr absl::Duration kMinQuiet = absl::Microseconds(50);
  static constexpr absl::Duration kMaxQuiet = absl::Milliseconds(20);
  // A guest that does not stop accessing the chip does not prolong it for ever.
  static constexpr absl::Duration kMaxProlonged = absl::Milliseconds(200);
  // From the guest's last access; see UartRegisters::may_want_input_without_rts().
  static constexpr absl::Duration kAssumeRtsAfter = absl::Milliseconds(20);

  // False: neither OnAccess() nor OnTime() has anything to do.
  bool IsNeeded(const UartRegisters& registers) const {
    return in_burst_ || waiting_ || registers.burst_bytes() != 0 || registers.is_quiet() ||
           registers.may_want_input_without_rts();
  }

  // The guest has accessed the registers.
  void OnAccess(UartRegisters& registers, absl::Time now);
  // When OnTime() is due. InfiniteFuture: there is nothing to wait for.
  absl::Time due() const { return due_; }
  // If it is due, acts on the registers; may be called too early.
  void OnTime(UartRegisters& registers, absl::Time now);

 private:
  void Update(const UartRegisters& registers, absl::Time now);

  bool in_burst_ = false;
  absl::Time burst_start_ = absl::InfinitePast();
  // What is waited for: since when, for how long after the last access.
  bool waiting_ = false;
  bool waits_for_quiet_ = false;  // else for kAssumeRtsAfter
  absl::Time wait_start_;
  absl::Duration wait_;
  absl::Time due_ = absl::InfiniteFuture();
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_LINE_PACE_H_
