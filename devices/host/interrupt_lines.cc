#include "devices/host/interrupt_lines.h"

namespace bulkhead::devices {

InterruptLines::InterruptLines(Events events)
    : msix_vectors_(std::move(events.msix_vectors)),
      has_line_(events.intx.ok()),
      is_level_triggered_(events.intx_resample.ok()),
      intx_(std::move(events.intx)),
      intx_resample_(std::move(events.intx_resample)),
      held_back_(msix_vectors_.size()) {}

void InterruptLines::SignalMsix(uint32_t vector) {
  if (vector >= msix_vectors_.size() || !state_.msix_enabled) return;
  if (state_.bus_master) {
    msix_vectors_[vector].Signal();
  } else {
    held_back_[vector] = true;
  }
}

void InterruptLines::SetIntx(bool level) {
  const bool rises = level && !level_;
  level_ = level;
  // Going down needs no event: KVM takes a level-triggered line down at the guest's
  // end-of-interrupt, and an edge has no end.
  if (rises && MayAssertLine()) intx_.Signal();
}

void InterruptLines::OnFunctionState(const FunctionState& state) {
  const bool line_was_silent = state_.msix_enabled;
  state_ = state;
  for (size_t vector = 0; vector < held_back_.size(); ++vector) {
    if (!held_back_[vector]) continue;
    if (state_.msix_enabled && !state_.bus_master) continue;
    held_back_[vector] = false;
    if (state_.msix_enabled) msix_vectors_[vector].Signal();
  }
  if (line_was_silent && level_ && MayAssertLine()) intx_.Signal();
}

void InterruptLines::OnResample() {
  intx_resample_.Drain();
  if (level_ && MayAssertLine()) intx_.Signal();
}

}  // namespace bulkhead::devices
