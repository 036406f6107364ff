#include "devices/i6300esb/watchdog_registers.h"

#include <algorithm>

namespace bulkhead::devices::i6300esb {
namespace {

constexpr uint16_t kConfigBits = kConfigOutputDisabled | kConfigFast | kConfigInterruptType;
constexpr uint8_t kLockBits = kLockFreeRunning | kLockEnabled | kLockLocked;
constexpr uint8_t kUnlockSteps = 2;
constexpr int64_t kMinStageNs = 1'000'000;  // a guest that sets less costs the host no more

}  // namespace

bool WatchdogRegisters::Restore(const State& state, int64_t now_ns) {
  if (state.ticks[0] > kMaxTicks || state.ticks[1] > kMaxTicks ||
      (state.config & ~kConfigBits) != 0 || (state.lock & ~kLockBits) != 0 || state.stage > 1 ||
      state.unlocked > kUnlockSteps || state.timed_out > 1) {
    return false;
  }
  state_ = state;
  state_.deadline_ns = std::min(state.deadline_ns, now_ns + StageNs(state.stage));
  return true;
}

void WatchdogRegisters::Reset() {
  const uint8_t timed_out = state_.timed_out;
  state_ = State();
  state_.timed_out = timed_out;
}

int64_t WatchdogRegisters::StageNs(uint8_t stage) const {
  const int shift = (state_.config & kConfigFast) != 0 ? 5 : 15;
  return std::max((int64_t{state_.ticks[stage]} << shift) * kPciClockNs, kMinStageNs);
}

uint64_t WatchdogRegisters::ReadConfig(uint64_t offset, uint8_t) const {
  if (offset == kConfigOffset) return state_.config;
  return offset == kLockOffset ? state_.lock : 0;
}

void WatchdogRegisters::WriteConfig(uint64_t offset, uint8_t size_bytes, uint64_t value,
                                    int64_t now_ns) {
  if (offset == kConfigOffset && size_bytes >= 2) {
    state_.config = static_cast<uint16_t>(value & kConfigBits);
  } else if (offset == kLockOffset && (state_.lock & kLockLocked) == 0) {
    const bool was_enabled = is_enabled();
    state_.lock = static_cast<uint8_t>(value & kLockBits);
    if (!was_enabled) Restart(now_ns);
  }
}

uint64_t WatchdogRegisters::Read(uint64_t offset, uint8_t size_bytes) const {
  if (offset == kReloadOffset && size_bytes >= 2) return state_.timed_out != 0 ? kTimedOut : 0;
  if (size_bytes != 4) return 0;
  if (offset == kTimer1Offset) return state_.ticks[0];
  return offset == kTimer2Offset ? state_.ticks[1] : 0;
}

bool WatchdogRegisters::Write(uint64_t offset, uint8_t size_bytes, uint64_t value, int64_t now_ns) {
  if (offset == kReloadOffset && value == kUnlock1) {
    state_.unlocked = 1;
    return false;
  }
  if (offset == kReloadOffset && value == kUnlock2 && state_.unlocked == 1) {
    state_.unlocked = kUnlockSteps;
    return false;
  }
  if (state_.unlocked != kUnlockSteps) return false;
  const bool reloads = offset == kReloadOffset && size_bytes >= 2;
  const bool sets_timer = size_bytes == 4 && (offset == kTimer1Offset || offset == kTimer2Offset);
  if (!reloads && !sets_timer) return false;
  state_.unlocked = 0;
  if (sets_timer) {
    state_.ticks[offset == kTimer1Offset ? 0 : 1] = static_cast<uint32_t>(value & kMaxTicks);
    return false;
  }
  if ((value & kTimedOut) != 0) state_.timed_out = 0;
  if ((value & kReload) == 0) return false;
  Restart(now_ns);
  return true;
}

void WatchdogRegisters::Restart(int64_t now_ns) {
  if (!is_enabled()) return;
  state_.stage = 0;
  state_.deadline_ns = now_ns + StageNs(0);
}

void WatchdogRegisters::Advance(int64_t now_ns) {
  if (!is_enabled() || state_.stage != 0 || now_ns < state_.deadline_ns) return;
  state_.stage = 1;
  state_.deadline_ns += StageNs(1);
}

bool WatchdogRegisters::IsOver(int64_t now_ns) const {
  return is_enabled() && state_.stage == 1 && now_ns >= state_.deadline_ns;
}

void WatchdogRegisters::Expire(int64_t now_ns) {
  if (reports()) {
    state_.timed_out = 1;
    Reset();
    return;
  }
  state_.deadline_ns = kNever;
  if ((state_.lock & kLockFreeRunning) != 0) Restart(now_ns);
}

}  // namespace bulkhead::devices::i6300esb
