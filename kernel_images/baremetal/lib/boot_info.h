#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_BOOT_INFO_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_BOOT_INFO_H_

#include <stdint.h>

// What the machine passes to the program at its start: the PVH start info, its command line, and
// the ACPI tables that it points to.

namespace bulkhead::guest {

// Call once, first: copies the start info out of memory that is used for other things later.
void ReadBootInfo();

// ---- Command line: words "name=value"

// The value of the first word of that name, else `otherwise`. The string lives for ever.
const char* StringOption(const char* name, const char* otherwise);
// As above; decimal, or hexadecimal after 0x. Fails the program on anything else, and on numbers
// that are not in `least` to `most`.
uint64_t NumberOption(const char* name, uint64_t otherwise, uint64_t least = 0,
                      uint64_t most = ~uint64_t{0});

// ---- Memory map

// The end of the highest RAM range below, and above, 4 GiB. Above: 0 if there is none.
uint64_t LowRamEnd();
uint64_t HighRamEnd();

// ---- ACPI

// The PCI Express configuration window of bus 0, from the MCFG; 0: no such table.
uint64_t EcamBase();
// Enabled CPUs in the MADT; 0: no such table.
uint32_t AcpiCpuCount();

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_BOOT_INFO_H_
