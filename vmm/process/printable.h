#ifndef BULKHEAD_VMM_PROCESS_PRINTABLE_H_
#define BULKHEAD_VMM_PROCESS_PRINTABLE_H_

#include <stddef.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// A device must not be able to send escape sequences to the operator's terminal. There are
// some above 0x7f too.
inline void AppendPrintable(char c, std::string& text) {
  const auto byte = static_cast<unsigned char>(c);
  if (c == '\t' || absl::ascii_isprint(byte)) {
    text.push_back(c);
  } else {
    absl::StrAppend(&text, "\\x", absl::Hex(byte, absl::kZeroPad2));
  }
}

// The first `max_bytes` of what a device says, to be shown to people.
inline std::string Printable(absl::string_view said, size_t max_bytes = 512) {
  std::string text;
  for (const char c : said.substr(0, max_bytes)) AppendPrintable(c, text);
  return text;
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_PRINTABLE_H_
