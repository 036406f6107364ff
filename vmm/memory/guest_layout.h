#ifndef BULKHEAD_VMM_MEMORY_GUEST_LAYOUT_H_
#define BULKHEAD_VMM_MEMORY_GUEST_LAYOUT_H_

#include <stdint.h>

#include "base/guest_memory.h"

// Every guest-physical address, port and interrupt that the vmm itself chooses, with the reason.

namespace bulkhead::vmm::layout {

// --- Low memory, used once at boot -------------------------------------------------------
inline constexpr GuestAddress kGdt = 0x500;  // above the real-mode IVT and BDA
inline constexpr GuestAddress kPvhStartInfo = 0x6000;
inline constexpr GuestAddress kPvhModules = 0x6040;
inline constexpr GuestAddress kPvhMemoryMap = 0x6100;
inline constexpr GuestAddress kZeroPage = 0x7000;  // Linux boot_params, one page
inline constexpr GuestAddress kBootStack = 0x8ff0;
inline constexpr GuestAddress kPageTables = 0x9000;  // PML4, PDPT, four PDs: 0x9000-0xefff
inline constexpr GuestAddress kCommandLine = 0x20000;
inline constexpr uint64_t kCommandLineMaxBytes = 2048;  // with the terminating zero; Linux's limit
inline constexpr GuestAddress kEbda = 0x9fc00;          // usable low memory ends here
inline constexpr GuestAddress kAcpiTables =
    0xe0000;  // where a BIOS has its RSDP: a guest that scans for it finds it
inline constexpr GuestAddress kAcpiTablesEnd = 0xff000;
inline constexpr GuestAddress kResetVector = 0xffff0;  // of a PC's BIOS: f000:fff0
inline constexpr GuestAddress kHighMemory = 0x100000;  // kernels load at or above 1 MiB

// --- The hole below 4 GiB: [kHoleStart, 4 GiB) holds no RAM ------------------------------------
inline constexpr GuestAddress kHoleStart = 0xc0000000;
inline constexpr GuestAddress kMmio32Start = 0xc0000000;  // 32-bit BARs
inline constexpr GuestAddress kMmio32End = 0xe0000000;
inline constexpr GuestAddress kEcamStart = 0xe0000000;  // one bus: 1 MiB
inline constexpr uint64_t kEcamSize = 0x100000;
inline constexpr GuestAddress kIoApic = 0xfec00000;
inline constexpr GuestAddress kLocalApic = 0xfee00000;
inline constexpr GuestAddress kIdentityMap =
    0xfffbc000;                                   // one page; Intel VT-x without unrestricted guest
inline constexpr GuestAddress kTss = 0xfffbd000;  // three pages; as above
inline constexpr uint64_t kTssSize = 0x3000;
inline constexpr GuestAddress kHoleEnd = 0x100000000;  // RAM continues here

// --- Above all RAM: 64-bit BARs. The start is the end of RAM, rounded up to 1 GiB, and at
// least 64 GiB so that it does not move with the memory size. ---------------------------------
inline constexpr GuestAddress kMmio64MinStart = 0x1000000000;
inline constexpr uint64_t kMmio64Size = 0x1000000000;  // 64 GiB

// --- Ports ---------------------------------------------------------------------------------
// ACPI registers: vmm/acpi/acpi_registers.h.
inline constexpr uint16_t kAcpiPort = 0x600;
inline constexpr uint8_t kAcpiPortCount = 16;
inline constexpr uint16_t kAcpiResetPort = kAcpiPort;
inline constexpr uint16_t kPm1Event = kAcpiPort + 4;  // status, then enable; 16 bits each
inline constexpr uint16_t kPm1Control = kAcpiPort + 8;
inline constexpr uint16_t kGpe0 = kAcpiPort + 12;  // status, then enable; 8 bits each
inline constexpr uint8_t kWakeGpe = 0;
inline constexpr uint8_t kAcpiResetValue = 0x01;
// SLP_EN | SLP_TYP 5, in the upper byte of PM1 control.
inline constexpr uint8_t kAcpiS5Value = 0x34;
inline constexpr uint16_t kPciConfigAddress = 0xcf8;

// --- Interrupts (global system interrupts) ----------------------------------------------------
// 0-15: platform devices, edge-triggered, except ACPI's. 16-23: PCI INTx, level-triggered; slot n
// uses 16 + n % 8.
inline constexpr uint32_t kAcpiGsi = 9;  // SCI, where a PC has it
inline constexpr uint32_t kIntxGsiBase = 16;
inline constexpr uint32_t kIntxGsiCount = 8;
inline constexpr uint32_t kMsiGsiBase = 24;  // KVM's IOAPIC has 24 pins

inline constexpr uint32_t kMaxVcpus = 32;
inline constexpr uint32_t kMaxPciSlots = 32;  // slot 0 is the host bridge

}  // namespace bulkhead::vmm::layout

#endif  // BULKHEAD_VMM_MEMORY_GUEST_LAYOUT_H_
