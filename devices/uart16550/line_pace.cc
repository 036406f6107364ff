#include "devices/uart16550/line_pace.h"

#include <algorithm>

namespace bulkhead::devices::uart16550 {

void LinePace::OnAccess(UartRegisters& registers, absl::Time now) {
  if (!in_burst_ && registers.burst_bytes() != 0) burst_start_ = now;
  if (!registers.is_quiet() && registers.burst_bytes() >= kMinBurstBytes &&
      now - burst_start_ >= kMaxBurst) {
    registers.BeginQuiet();
  }
  in_burst_ = registers.burst_bytes() != 0 || registers.is_quiet();
  Update(registers, now);
}

void LinePace::Update(const UartRegisters& registers, absl::Time now) {
  if (!registers.is_quiet() && !registers.may_want_input_without_rts()) {
    waiting_ = false;
    due_ = absl::InfiniteFuture();
    return;
  }
  if (!waiting_ || waits_for_quiet_ != registers.is_quiet()) {
    waiting_ = true;
    waits_for_quiet_ = registers.is_quiet();
    wait_start_ = now;
    wait_ = waits_for_quiet_ ? std::clamp((now - burst_start_) / 8, kMinQuiet, kMaxQuiet)
                             : kAssumeRtsAfter;
  }
  due_ = std::min(now + wait_, wait_start_ + std::max(wait_, kMaxProlonged));
}

void LinePace::OnTime(UartRegisters& registers, absl::Time now) {
  if (now < due_) return;
  if (registers.is_quiet()) {
    registers.EndQuiet();
    in_burst_ = false;
  } else if (registers.may_want_input_without_rts()) {
    registers.AssumeRts();
  }
  Update(registers, now);
}

}  // namespace bulkhead::devices::uart16550
