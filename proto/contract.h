#ifndef BULKHEAD_PROTO_CONTRACT_H_
#define BULKHEAD_PROTO_CONTRACT_H_

#include <stdint.h>

// Constants that the vmm and a device process share, beside the messages of this folder.

namespace bulkhead {

// Increased when proto/ changes in a way that an older peer would misread or not understand.
inline constexpr uint32_t kContractVersion = 5;

// Descriptors that a device process inherits beside standard input, output and error.
inline constexpr int kAttachSocketFd = 3;   // SOCK_SEQPACKET, proto/attach.proto
inline constexpr int kControlSocketFd = 4;  // gRPC, proto/device_control.proto

// Exit code of a device process whose flags are wrong: a mistake in the configuration, not a
// failure of the device.
inline constexpr int kDeviceExitUsage = 2;
// Exit code (EX_TEMPFAIL) of a device process that lacks threads, memory or descriptors. Before its
// answer to the attach request that is a shortage of the host: the vmm starts the device again for
// as long as it takes. Later it is a crash like any other, so that a process that serves cannot
// evade the restart policy by this code.
inline constexpr int kDeviceExitShortage = 75;

// Channel regions of a PCI device: 0 to 5 are its BARs. Of a platform device: its port ranges.
inline constexpr uint8_t kMaxBars = 6;
inline constexpr uint8_t kCapabilityRegionBase = 16;  // + position in PciFunction.capabilities
inline constexpr uint8_t kMaxCapabilities = 16;

// Data of the channel's kSetFunctionState request: what a PCI device must obey.
inline constexpr uint64_t kFunctionStateBusMaster = 1 << 0;
inline constexpr uint64_t kFunctionStateMsixEnabled = 1 << 1;
inline constexpr uint64_t kFunctionStateIntxDisabled = 1 << 2;

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONTRACT_H_
