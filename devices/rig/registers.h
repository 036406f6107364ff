#ifndef BULKHEAD_DEVICES_RIG_REGISTERS_H_
#define BULKHEAD_DEVICES_RIG_REGISTERS_H_

#include <stdint.h>

// What a driver of the rig needs to know. Also included by bare-metal guest programs: constants
// only.
//
// BAR 0, 4 KiB. "any": bytes that may be accessed with any width and alignment. The others are
// little-endian registers of 4 or 8 bytes, accessed whole; an 8-byte one may also be accessed
// by its two halves. Everything else reads as all ones and ignores writes.
//
//  offset  size  name             read / write
//  0x000   4     identification   R: kIdentification
//  0x004   4     version          R: kVersion
//  0x008   4     function state   R: what the device was told: bit 0 bus master, bit 1 MSI-X on
//  0x010   4     order next       W: must be one more than the last value written here (the first
//                                 is 0), else a violation is counted. R: the value expected next.
//  0x014   4     order violations R: count. W: any value resets both order registers.
//  0x020   4     doorbell count   R: how often the device was woken by the doorbell; rings in
//                                 quick succession count once, and each process of the device
//                                 looks once. W: any value resets it.
//  0x024   4     doorbell order   R: order next, as the doorbell last found it.
//  0x030   4     interrupt status R: causes not yet acknowledged
//  0x034   4     interrupt raise  W: causes to add: 8 bits. With MSI-X on, cause n sends vector n,
//                                 whatever the status; else INTA# is asserted while status != 0.
//  0x038   4     interrupt ack    W: causes to clear
//  0x040   8     DMA source       RW: guest-physical
//  0x048   8     DMA destination  RW: guest-physical
//  0x050   4     DMA length       RW: bytes, at most kDmaMaxLength
//  0x054   4     DMA command      W: kDmaCopy, with kDmaInterrupt or without. Done when the next
//                                 access to the device is answered.
//  0x058   4     DMA status       R: DmaStatus of the last command
//  0x060   4     busy             W: the device does nothing else for that many microseconds, at
//                                 most kBusyMaxMicroseconds (for tests of slow devices)
//  0x064   4     hang             W: the device never does anything again, see Misbehaviour
//  0x068   4     work             W: as busy, for that many milliseconds, at most
//                                 kWorkMaxMilliseconds; but the device gives heartbeats meanwhile
//  0x06c   4     crash            W: the device's process dies, see Misbehaviour
//  0x070   8     sum              W: the value is added. R: the sum. Whole only. A write that is
//                                 lost or applied twice shows.
//  0x078   4     take             R: 1, 2, 3, ...: each read takes the next number. A read that
//                                 is done twice shows. W: any value starts over.
//  0x080   64    scratch          RW: any
//  0x100   -     doorbell         W: any width: wakes the device without a request. R: 0.
//
// BAR 2, 64-bit, prefetchable, 64 KiB: bytes to read and write (any).
//
// All of it outlives the device's process, and is zero after a reset.
//
// Capabilities, both vendor-specific (ID 9), in this order. Byte 2 of each is its length.
//  1. 8 bytes; byte 4-7: RW scratch, forwarded to the device
//  2. 8 bytes; byte 4-7: the bytes "BULK", read-only

namespace bulkhead::devices::rig {

inline constexpr uint16_t kVendorId = 0x1209;  // pid.codes
inline constexpr uint16_t kDeviceId = 0xb001;
inline constexpr uint32_t kClassCode = 0xff0000;  // fits no defined class
inline constexpr uint16_t kSubsystemVendorId = 0x1209;
inline constexpr uint16_t kSubsystemId = 0xb001;

inline constexpr uint8_t kRegisterBar = 0;
inline constexpr uint64_t kRegisterBarSize = 0x1000;
inline constexpr uint8_t kMemoryBar = 2;
inline constexpr uint64_t kMemoryBarSize = 0x10000;
inline constexpr uint32_t kMsixVectors = 8;

inline constexpr uint32_t kIdentification = 0x4b4c5542;  // "BULK"
inline constexpr uint32_t kVersion = 1;

inline constexpr uint64_t kIdentificationOffset = 0x000;
inline constexpr uint64_t kVersionOffset = 0x004;
inline constexpr uint64_t kFunctionStateOffset = 0x008;
inline constexpr uint64_t kOrderNextOffset = 0x010;
inline constexpr uint64_t kOrderViolationsOffset = 0x014;
inline constexpr uint64_t kDoorbellCountOffset = 0x020;
inline constexpr uint64_t kDoorbellOrderOffset = 0x024;
inline constexpr uint64_t kInterruptStatusOffset = 0x030;
inline constexpr uint64_t kInterruptRaiseOffset = 0x034;
inline constexpr uint64_t kInterruptAckOffset = 0x038;
inline constexpr uint64_t kDmaSourceOffset = 0x040;
inline constexpr uint64_t kDmaDestinationOffset = 0x048;
inline constexpr uint64_t kDmaLengthOffset = 0x050;
inline constexpr uint64_t kDmaCommandOffset = 0x054;
inline constexpr uint64_t kDmaStatusOffset = 0x058;
inline constexpr uint64_t kBusyOffset = 0x060;
inline constexpr uint64_t kHangOffset = 0x064;
inline constexpr uint64_t kWorkOffset = 0x068;
inline constexpr uint64_t kCrashOffset = 0x06c;
inline constexpr uint64_t kSumOffset = 0x070;
inline constexpr uint64_t kTakeOffset = 0x078;
inline constexpr uint64_t kScratchOffset = 0x080;
inline constexpr uint64_t kScratchSize = 64;
inline constexpr uint64_t kDoorbellOffset = 0x100;

inline constexpr uint32_t kFunctionStateBusMaster = 1 << 0;
inline constexpr uint32_t kFunctionStateMsixEnabled = 1 << 1;

inline constexpr uint32_t kInterruptCauses = 0xff;
inline constexpr uint32_t kDmaInterruptCause = 1 << 7;  // a DMA command has ended

inline constexpr uint32_t kDmaMaxLength = 64 * 1024;
inline constexpr uint32_t kDmaCopy = 1;
inline constexpr uint32_t kDmaInterrupt = 1u << 31;

enum DmaStatus : uint32_t {
  kDmaIdle = 0,  // no command yet
  kDmaDone = 1,
  kDmaBadAddress = 2,  // source or destination is not RAM; nothing was written
  kDmaBadLength = 3,
  kDmaNotBusMaster = 4,  // bus mastering is off in the command register
  kDmaBadCommand = 5,
};

inline constexpr uint32_t kBusyMaxMicroseconds = 100'000;
inline constexpr uint32_t kWorkMaxMilliseconds = 10'000;

// Values for hang and crash.
enum Misbehaviour : uint32_t {
  kOnce = 1,    // after the write is done with: a successor goes on
  kAlways = 2,  // in the middle of the write: so does every successor, which takes it up again
};

inline constexpr uint8_t kVendorCapabilityId = 0x09;
inline constexpr uint8_t kCapabilitySize = 8;  // with the ID and next-pointer bytes

}  // namespace bulkhead::devices::rig

#endif  // BULKHEAD_DEVICES_RIG_REGISTERS_H_
