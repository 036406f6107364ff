#include "vmm/device/hardware_id.h"

#include <stddef.h>

#include <algorithm>

#include "absl/strings/ascii.h"

namespace bulkhead::vmm {
namespace {

bool IsUpper(char c) { return absl::ascii_isupper(static_cast<unsigned char>(c)); }
bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }

// `prefix` characters that `is_first` holds for, then four uppercase hexadecimal digits.
bool HasForm(absl::string_view id, size_t prefix, bool (*is_first)(char)) {
  if (id.size() != prefix + 4) return false;
  return std::all_of(id.begin(), id.begin() + prefix, is_first) &&
         std::all_of(id.begin() + prefix, id.end(),
                     [](char c) { return IsDigit(c) || (c >= 'A' && c <= 'F'); });
}

}  // namespace

bool IsEisaId(absl::string_view id) { return HasForm(id, 3, IsUpper); }

bool IsHardwareId(absl::string_view id) {
  return IsEisaId(id) || HasForm(id, 4, [](char c) { return IsUpper(c) || IsDigit(c); });
}

}  // namespace bulkhead::vmm
