#ifndef BULKHEAD_BASE_MAC_ADDRESS_H_
#define BULKHEAD_BASE_MAC_ADDRESS_H_

#include <stdint.h>

#include <array>
#include <optional>

#include "absl/strings/string_view.h"

namespace bulkhead {

using MacAddress = std::array<uint8_t, 6>;

// "52:54:00:12:34:56". nullopt: no such text, all zeroes, or the address of a group.
std::optional<MacAddress> ParseMacAddress(absl::string_view text);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_MAC_ADDRESS_H_
