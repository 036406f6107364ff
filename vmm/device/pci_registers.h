#ifndef BULKHEAD_VMM_DEVICE_PCI_REGISTERS_H_
#define BULKHEAD_VMM_DEVICE_PCI_REGISTERS_H_

#include <stddef.h>
#include <stdint.h>

// Registers of a PCI function. Clauses: [PCI] is the PCI Local Bus Specification, revision 3.0;
// [PCIe] is the PCI Express Base Specification, revision 4.0.

namespace bulkhead::vmm::pci {

// Size of the configuration space with header and capabilities, and of the whole one, with ECAM's
// extended capabilities ([PCIe] 7.2.2).
inline constexpr uint16_t kConventionalConfigBytes = 0x100;
inline constexpr uint16_t kConfigBytes = 0x1000;

// --- Header type 0 ([PCI] 6.1, figure 6-1) -----------------------------------------------------
inline constexpr uint16_t kVendorId = 0x00;
inline constexpr uint16_t kDeviceId = 0x02;
inline constexpr uint16_t kCommand = 0x04;
inline constexpr uint16_t kStatus = 0x06;
inline constexpr uint16_t kRevisionId = 0x08;
inline constexpr uint16_t kClassCode = 0x09;  // three bytes
inline constexpr uint16_t kCacheLineSize = 0x0c;
inline constexpr uint16_t kBar0 = 0x10;  // six dwords
inline constexpr uint16_t kSubsystemVendorId = 0x2c;
inline constexpr uint16_t kSubsystemId = 0x2e;
inline constexpr uint16_t kCapabilitiesPointer = 0x34;
inline constexpr uint16_t kInterruptLine = 0x3c;
inline constexpr uint16_t kInterruptPin = 0x3d;
inline constexpr uint16_t kFirstCapability = 0x40;  // the header ends here

// Command register ([PCI] 6.2.2).
inline constexpr uint16_t kCommandIo = 1 << 0;
inline constexpr uint16_t kCommandMemory = 1 << 1;
inline constexpr uint16_t kCommandBusMaster = 1 << 2;
inline constexpr uint16_t kCommandIntxDisable = 1 << 10;

// Status register ([PCI] 6.2.3).
inline constexpr uint16_t kStatusInterrupt = 1 << 3;
inline constexpr uint16_t kStatusCapabilityList = 1 << 4;

// Low bits of a memory BAR ([PCI] 6.2.5.1).
inline constexpr uint32_t kBar64Bit = 2 << 1;
inline constexpr uint32_t kBarPrefetchable = 1 << 3;
inline constexpr uint32_t kBarFlags = 0xf;
inline constexpr uint64_t kSmallestBar = 16;

inline constexpr uint8_t kInterruptPinA = 1;

// --- Capabilities ([PCI] 6.7) --------------------------------------------------------------------
inline constexpr uint8_t kCapabilityHeaderBytes = 2;  // ID, next pointer
// The space that a capability of `bytes`, header included, takes: each is dword-aligned.
inline constexpr size_t CapabilitySpace(size_t bytes) { return (bytes + 3) & ~size_t{3}; }
inline constexpr uint8_t kCapabilityMsi = 0x05;
inline constexpr uint8_t kCapabilityMsix = 0x11;
inline constexpr uint8_t kCapabilityAdvancedFeatures = 0x13;

// MSI-X capability ([PCI] 6.8.2.3 to 6.8.2.5), from its start.
inline constexpr uint8_t kMsixControl = 2;
inline constexpr uint8_t kMsixTable = 4;
inline constexpr uint8_t kMsixPba = 8;
inline constexpr uint8_t kMsixCapabilityBytes = 12;
inline constexpr uint16_t kMsixControlFunctionMask = 1 << 14;
inline constexpr uint16_t kMsixControlEnable = 1 << 15;
inline constexpr uint32_t kMsixMaxVectors = 2048;

// MSI-X table entry ([PCI] 6.8.2.6 to 6.8.2.9), four dwords.
inline constexpr uint32_t kMsixEntryBytes = 16;
inline constexpr uint32_t kMsixVectorMasked = 1 << 0;

// Advanced Features capability: function-level reset for functions that are not PCI Express
// (PCI-SIG ECN "Advanced Capabilities for Conventional PCI", 2007), from its start.
inline constexpr uint8_t kAdvancedFeaturesLength = 2;
inline constexpr uint8_t kAdvancedFeaturesCapabilities = 3;
inline constexpr uint8_t kAdvancedFeaturesControl = 4;
inline constexpr uint8_t kAdvancedFeaturesBytes = 6;
inline constexpr uint8_t kTransactionsPendingCapable = 1 << 0;
inline constexpr uint8_t kFunctionLevelResetCapable = 1 << 1;
inline constexpr uint8_t kInitiateFunctionLevelReset = 1 << 0;

}  // namespace bulkhead::vmm::pci

#endif  // BULKHEAD_VMM_DEVICE_PCI_REGISTERS_H_
