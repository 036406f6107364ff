#ifndef BULKHEAD_VMM_ACPI_AML_H_
#define BULKHEAD_VMM_ACPI_AML_H_

#include <stdint.h>

#include <initializer_list>
#include <vector>

#include "absl/strings/string_view.h"

// The part of ACPI Machine Language (ACPI 6.5, chapter 20) that the vmm's tables need. Each
// function returns the bytes of one term, so that nested calls read like ASL.
//
// A name is one segment of four characters, padded with '_': "_SB_"; or two from the root:
// "\_SB_.WAKE". A wrong name or value is a programmer's mistake and CHECKed. Values from a device
// must be validated before.

namespace bulkhead::vmm::aml {

using Bytes = std::vector<uint8_t>;

Bytes Concat(std::initializer_list<Bytes> parts);

// --- Data ------------------------------------------------------------------------------------
Bytes Integer(uint64_t value);
Bytes String(absl::string_view text);  // ASCII without zero bytes
Bytes Buffer(const Bytes& contents);
Bytes Package(const std::vector<Bytes>& elements);  // at most 255
// The packed form of a 7-character ID: "PNP0501".
Bytes EisaId(absl::string_view id);

// --- Named objects ------------------------------------------------------------------------
Bytes Name(absl::string_view name, const Bytes& object);
Bytes Scope(absl::string_view name, std::initializer_list<Bytes> terms);
Bytes Device(absl::string_view name, std::initializer_list<Bytes> terms);
Bytes Method(absl::string_view name, uint8_t arguments, std::initializer_list<Bytes> terms);

// --- Statements and expressions in methods -------------------------------------------------------
Bytes Argument(uint8_t index);
Bytes Equal(const Bytes& left, const Bytes& right);
Bytes If(const Bytes& condition, std::initializer_list<Bytes> terms);
Bytes Return(const Bytes& value);
// Notifies the drivers of the named object. A single segment is looked up from the method outwards.
Bytes Notify(absl::string_view name, uint8_t value);

// --- Resource descriptors (section 6.4), for a ResourceTemplate ------------------------------
Bytes ResourceTemplate(std::initializer_list<Bytes> descriptors);
// Ports that the device decodes: `size` 1 to 255.
Bytes IoPorts(uint16_t base, uint8_t size);
Bytes Memory32Fixed(uint32_t base, uint32_t size_bytes);
// An edge-triggered, active-high interrupt that is not shared.
Bytes EdgeInterrupt(uint32_t gsi);
// Ranges that a bus forwards to its devices: fixed, both ends inclusive.
Bytes BusNumbers(uint16_t first, uint16_t last);
Bytes PortWindow(uint16_t first, uint16_t last);
Bytes MemoryWindow32(uint32_t first, uint32_t last);
Bytes MemoryWindow64(uint64_t first, uint64_t last);

}  // namespace bulkhead::vmm::aml

#endif  // BULKHEAD_VMM_ACPI_AML_H_
