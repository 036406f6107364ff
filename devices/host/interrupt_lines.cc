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
    SignalVector(vector);
  } else {
    held_back_[vector] = true;
  }
}

void InterruptLines::SetIntx(bool level) {
  const bool rises = level && !level_;
  level_ = level;
  // Going down needs no event: KVM takes a level-triggered line down at the guest's
  // end-of-interrupt, and an edge has no end.
  if (rises && MaySignalLine()) SignalLine();
  // While the line is disabled KVM does not listen: the event would wait and interrupt later.
  if (!level && has_line_ && state_.intx_disabled) intx_.Drain();
}

void InterruptLines::OnFunctionState(const FunctionState& state) {
  state_ = state;
  for (size_t vector = 0; vector < held_back_.size(); ++vector) {
    if (!held_back_[vector]) continue;
    if (state_.msix_enabled && !state_.bus_master) continue;
    held_back_[vector] = false;
    if (state_.msix_enabled) SignalVector(vector);
  }
  // Whatever has changed: the guest may have switched the line off and on since the last call,
  // and off took it down. Asserting a line that is up does nothing.
  if (level_ && MaySignalLine()) SignalLine();
}

void InterruptLines::OnResample() {
  intx_resample_.Drain();
  if (level_ && MaySignalLine()) SignalLine();
}

void InterruptLines::DropStaleEvents() {
  if (!level_ && has_line_ && state_.intx_disabled) intx_.Drain();
}

void InterruptLines::Reset() {
  level_ = false;
  held_back_.assign(held_back_.size(), false);
  DropStaleEvents();
}

void InterruptLines::SignalVector(size_t vector) {
  ++msix_signals_;
  if (trace_.on()) {
    trace_.Write(channel::TraceRecord::kMsix, static_cast<uint32_t>(vector));
  }
  msix_vectors_[vector].Signal();
}

void InterruptLines::SignalLine() {
  ++line_signals_;
  if (trace_.on()) trace_.Write(channel::TraceRecord::kLine, /*index=*/0);
  intx_.Signal();
}

}  // namespace bulkhead::devices
