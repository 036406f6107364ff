#ifndef BULKHEAD_DEVICES_HOST_TESTDATA_MISBEHAVING_DEVICE_H_
#define BULKHEAD_DEVICES_HOST_TESTDATA_MISBEHAVING_DEVICE_H_

#include <stdint.h>

// The registers of BAR 0 of misbehaving_device.cc. Every other offset is one register that
// keeps what is written. That one, the writes and the sum outlive the process.

namespace bulkhead::devices::testdata {

inline constexpr uint64_t kDoorbell = 0x800;
inline constexpr uint64_t kTrigger = 0x100;        // read: misbehaves now
inline constexpr uint64_t kDoorbellCount = 0x108;  // read
inline constexpr uint64_t kWriteCount = 0x110;     // read
inline constexpr uint64_t kAdd = 0x118;            // write: adds to a sum; read: the sum
inline constexpr uint64_t kFunctionState = 0x120;  // read: what it was told, as proto/contract.h
inline constexpr uint64_t kSignalMsix = 0x200;     // write: the vector
inline constexpr uint64_t kSetIntx = 0x208;        // write: the level
inline constexpr uint64_t kCopyFromGuest = 0x210;  // write: the address of 8 bytes for the register

}  // namespace bulkhead::devices::testdata

#endif  // BULKHEAD_DEVICES_HOST_TESTDATA_MISBEHAVING_DEVICE_H_
