#ifndef BULKHEAD_DEVICES_I6300ESB_REGISTERS_H_
#define BULKHEAD_DEVICES_I6300ESB_REGISTERS_H_

#include <stdint.h>

// What a driver of the watchdog needs to know: Intel 6300ESB I/O Controller Hub Datasheet, chapter
// 16. Constants only: bare-metal guest programs include this.
//
// The counter has two stages. After the second one without a reload the watchdog expires. A write
// to a register in BAR 0, but for the flags that a reload clears, takes effect only after 0x80 and
// then 0x86 were written to the reload register; it must be unlocked for each such write.

namespace bulkhead::devices::i6300esb {

inline constexpr uint16_t kVendorId = 0x8086;
inline constexpr uint16_t kDeviceId = 0x25ab;
inline constexpr uint32_t kClassCode = 0x088000;  // system peripheral, other

// Configuration space.
inline constexpr uint16_t kConfigOffset = 0x60;            // 2 bytes
inline constexpr uint16_t kConfigOutputDisabled = 1 << 5;  // it does not expire
inline constexpr uint16_t kConfigFast = 1 << 2;            // one tick is 2^5 PCI clocks, not 2^15
inline constexpr uint16_t kConfigInterruptType = 0x3;      // after the first stage: there is none
inline constexpr uint16_t kLockOffset = 0x68;              // 1 byte
inline constexpr uint8_t kLockFreeRunning = 1 << 2;        // begins again if the output is disabled
inline constexpr uint8_t kLockEnabled = 1 << 1;
inline constexpr uint8_t kLockLocked = 1 << 0;  // no more writes until a reset

// BAR 0.
inline constexpr uint8_t kBar = 0;
inline constexpr uint64_t kBarSize = 0x1000;
inline constexpr uint64_t kTimer1Offset = 0x00;  // 4 bytes: ticks of the first stage
inline constexpr uint64_t kTimer2Offset = 0x04;
inline constexpr uint64_t kReloadOffset = 0x0c;  // 2 bytes
inline constexpr uint16_t kReload = 1 << 8;      // the first stage begins anew
inline constexpr uint16_t kTimedOut = 1 << 9;    // R: it has expired before. W: clears this
inline constexpr uint16_t kUnlock1 = 0x80;
inline constexpr uint16_t kUnlock2 = 0x86;

inline constexpr uint32_t kMaxTicks = 0xfffff;
inline constexpr int64_t kPciClockNs = 30;

}  // namespace bulkhead::devices::i6300esb

#endif  // BULKHEAD_DEVICES_I6300ESB_REGISTERS_H_
