#ifndef BULKHEAD_DEVICES_I6300ESB_WATCHDOG_REGISTERS_H_
#define BULKHEAD_DEVICES_I6300ESB_WATCHDOG_REGISTERS_H_

#include <stdint.h>

#include "devices/i6300esb/registers.h"

namespace bulkhead::devices::i6300esb {

// The registers of the watchdog and its counter (registers.h). Time comes with each call: that of
// the guest's clock. Pure; thread-compatible.
class WatchdogRegisters {
 public:
  static constexpr int64_t kNever = INT64_MAX;

  // All of it, as it is saved: no pointers, no padding.
  struct State {
    int64_t deadline_ns = 0;  // of the present stage, if enabled
    uint32_t ticks[2] = {kMaxTicks, kMaxTicks};
    uint16_t config = 0;
    uint8_t lock = 0;
    uint8_t stage = 0;     // 0 or 1
    uint8_t unlocked = 0;  // steps that were done, 2 at most
    uint8_t timed_out = 0;
    uint8_t reserved[2] = {};
  };

  const State& state() const { return state_; }
  // False: it is impossible, and nothing has changed. A deadline that is too late is brought
  // forward.
  bool Restore(const State& state, int64_t now_ns);
  // That it has expired before is still known afterwards.
  void Reset();

  bool is_enabled() const { return (state_.lock & kLockEnabled) != 0; }
  int64_t deadline_ns() const { return state_.deadline_ns; }

  // Accesses of the configuration space; `offset` is in it.
  uint64_t ReadConfig(uint64_t offset, uint8_t size_bytes) const;
  void WriteConfig(uint64_t offset, uint8_t size_bytes, uint64_t value, int64_t now_ns);
  // Accesses of BAR 0.
  uint64_t Read(uint64_t offset, uint8_t size_bytes) const;
  // True: the counter was reloaded.
  bool Write(uint64_t offset, uint8_t size_bytes, uint64_t value, int64_t now_ns);

  // The first stage begins anew, if enabled.
  void Restart(int64_t now_ns);
  // Goes to the second stage if the first one is over.
  void Advance(int64_t now_ns);
  // The second stage is over, too.
  bool IsOver(int64_t now_ns) const;
  // At the end of the second stage the watchdog reports that it has expired.
  bool reports() const { return (state_.config & kConfigOutputDisabled) == 0; }
  // Call it at that end. If it reports, the registers are as after a reset then.
  void Expire(int64_t now_ns);

 private:
  int64_t StageNs(uint8_t stage) const;

  State state_;
};

}  // namespace bulkhead::devices::i6300esb

#endif  // BULKHEAD_DEVICES_I6300ESB_WATCHDOG_REGISTERS_H_
