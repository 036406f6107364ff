#ifndef BULKHEAD_VMM_ACPI_ACPI_TABLES_H_
#define BULKHEAD_VMM_ACPI_ACPI_TABLES_H_

#include <stdint.h>

#include <vector>

#include "absl/status/statusor.h"
#include "base/guest_memory.h"
#include "vmm/acpi/dsdt.h"

// The guest's ACPI tables: descriptions of hardware that the guest cannot detect. The only fixed
// ACPI hardware wakes a guest and powers it off (acpi_registers.h).
//
//   RSDP -> XSDT -> FADT (ACPI registers) -> DSDT (dsdt.h), FACS
//                -> MADT (processors, IOAPIC)
//                -> MCFG (ECAM)

namespace bulkhead::vmm {

struct AcpiDescription {
  uint32_t vcpus = 1;                  // APIC IDs 0 to vcpus - 1
  GuestAddress high_window_start = 0;  // of the 64-bit BARs; its size is layout::kMmio64Size
  std::vector<AcpiPlatformDevice> platform_devices = {};
};

// The bytes of all tables, for `address`, where the RSDP is. Errors: InvalidArgument (too many
// processors or devices), ResourceExhausted (the tables do not fit below layout::kAcpiTablesEnd).
absl::StatusOr<std::vector<uint8_t>> BuildAcpiTables(const AcpiDescription& description,
                                                     GuestAddress address);

// Builds the tables for layout::kAcpiTables and writes them there. Returns the RSDP's address.
// Errors: as BuildAcpiTables(); Internal (no RAM there).
absl::StatusOr<GuestAddress> WriteAcpiTables(const AcpiDescription& description,
                                             const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_ACPI_ACPI_TABLES_H_
