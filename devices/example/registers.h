#ifndef BULKHEAD_DEVICES_EXAMPLE_REGISTERS_H_
#define BULKHEAD_DEVICES_EXAMPLE_REGISTERS_H_

#include <stdint.h>

// What a driver of the example device needs to know: it adds up bytes of guest memory. Constants
// only: bare-metal guest programs include this.
//
// A driver writes address and length, rings the doorbell, waits for the interrupt (MSI-X vector 0,
// or INTA# while a result is there), reads status and sum, and acknowledges.
//
// BAR 0, 4 KiB, little-endian registers that are accessed whole. Everything else reads as all ones
// and ignores writes.
//
//  offset  size  name            read / write
//  0x00    4     identification  R: kIdentification
//  0x08    8     address         RW: guest-physical
//  0x10    4     length          RW: bytes; a write makes a request, which the doorbell starts
//  0x14    4     status          R: Status. W: any value acknowledges: back to kIdle
//  0x18    8     sum             R: of the last request that ended with kDone
//  0x20    -     doorbell        W: any width
//
// All of it is zero after a reset, and outlives the device's process.

namespace bulkhead::devices::example {

inline constexpr uint16_t kVendorId = 0x1209;  // pid.codes
inline constexpr uint16_t kDeviceId = 0xb002;
inline constexpr uint32_t kClassCode = 0xff0000;  // fits no defined class

inline constexpr uint8_t kBar = 0;
inline constexpr uint64_t kBarSize = 0x1000;
inline constexpr uint32_t kMsixVectors = 1;

inline constexpr uint32_t kIdentification = 0x2b2b2b2b;

inline constexpr uint64_t kIdentificationOffset = 0x00;
inline constexpr uint64_t kAddressOffset = 0x08;
inline constexpr uint64_t kLengthOffset = 0x10;
inline constexpr uint64_t kStatusOffset = 0x14;
inline constexpr uint64_t kSumOffset = 0x18;
inline constexpr uint64_t kDoorbellOffset = 0x20;

inline constexpr uint32_t kMaxLength = 64 * 1024;

enum Status : uint32_t {
  kIdle = 0,
  kRequested = 1,  // waits for the doorbell
  kDone = 2,
  kBadLength = 3,
  kBadAddress = 4,    // not RAM
  kNotBusMaster = 5,  // bus mastering is off in the command register
};

}  // namespace bulkhead::devices::example

#endif  // BULKHEAD_DEVICES_EXAMPLE_REGISTERS_H_
