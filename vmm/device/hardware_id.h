#ifndef BULKHEAD_VMM_DEVICE_HARDWARE_ID_H_
#define BULKHEAD_VMM_DEVICE_HARDWARE_ID_H_

#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// ACPI hardware IDs (ACPI 6.5, section 6.1.5).

// Of the form "PNP0501", which AML packs into 32 bits.
bool IsEisaId(absl::string_view id);

// Of that form, or of the form "ABCD0123".
bool IsHardwareId(absl::string_view id);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_DEVICE_HARDWARE_ID_H_
