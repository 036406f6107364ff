#ifndef BULKHEAD_DEVICES_PVPANIC_REGISTERS_H_
#define BULKHEAD_DEVICES_PVPANIC_REGISTERS_H_

#include <stdint.h>

// What a driver of pvpanic needs to know: the PCI variant, as QEMU's docs/specs/pvpanic has it.
// Constants only: bare-metal guest programs include this.
//
// BAR 0 has one register of one byte, at offset 0. A read gives the events that the device knows, a
// write reports some of them.

namespace bulkhead::devices::pvpanic {

inline constexpr uint16_t kVendorId = 0x1b36;  // Red Hat
inline constexpr uint16_t kDeviceId = 0x0011;
inline constexpr uint32_t kClassCode = 0x088000;  // system peripheral, other
inline constexpr uint16_t kSubsystemVendorId = 0x1af4;
inline constexpr uint16_t kSubsystemId = 0x1100;

inline constexpr uint8_t kBar = 0;
inline constexpr uint64_t kBarSize = 0x1000;
inline constexpr uint64_t kEventsOffset = 0;

inline constexpr uint8_t kPanicked = 1 << 0;
inline constexpr uint8_t kCrashLoaded = 1 << 1;
inline constexpr uint8_t kEvents = kPanicked | kCrashLoaded;

}  // namespace bulkhead::devices::pvpanic

#endif  // BULKHEAD_DEVICES_PVPANIC_REGISTERS_H_
