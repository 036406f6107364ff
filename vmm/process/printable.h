#ifndef BULKHEAD_VMM_PROCESS_PRINTABLE_H_
#define BULKHEAD_VMM_PROCESS_PRINTABLE_H_

#include <stddef.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// Appends `c`, escaped if it is not printable ASCII or a tab: a device must not be able to send
// escape sequences to the operator's terminal, and some begin above 0x7f.
inline void AppendPrintable(char c, std::string& text) {
  const auto byte = static_cast<unsigned char>(c);
  if (c == '\t' || absl::ascii_isprint(byte)) {
    text.push_back(c);
  } else {
    absl::StrAppend(&text, "\\x", absl::Hex(byte, absl::kZeroPad2));
  }
}

// The first `max_bytes` of a device's text, escaped, for people.
inline std::string Printable(absl::string_view raw, size_t max_bytes = 512) {
  std::string text;
  for (const char c : raw.substr(0, max_bytes)) AppendPrintable(c, text);
  return text;
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_PRINTABLE_H_
