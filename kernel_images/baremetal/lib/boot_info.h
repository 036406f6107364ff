#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_BOOT_INFO_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_BOOT_INFO_H_

#include <stdint.h>

// What the machine told the program at its start: the PVH start info, its command line, and
// the ACPI tables that it leads to.

namespace bulkhead::guest {

// Once, first: copies what lies in memory that is used for other things later.
void ReadBootInfo();

// ---- Command line: words "name=value"
// -------------------------------------------------------------- The value of the first word of
// that name, else `otherwise`. The string lives for ever.
const char* StringOption(const char* name, const char* otherwise);
// As above; decimal, or hexadecimal after 0x. Fails the program on anything else.
uint64_t NumberOption(const char* name, uint64_t otherwise);

// ---- Memory map
// ------------------------------------------------------------------------------------ The end of
// the highest RAM range below / above 4 GiB; above: 0 if there is none.
uint64_t LowRamEnd();
uint64_t HighRamEnd();

// ---- ACPI
// ------------------------------------------------------------------------------------------ The
// PCI Express configuration window of bus 0 as MCFG tells it; 0: no such table.
uint64_t EcamBase();
// Enabled CPUs in the MADT; 0: no such table.
uint32_t AcpiCpuCount();

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_BOOT_INFO_H_
