#include "base/mac_address.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace bulkhead {

std::optional<MacAddress> ParseMacAddress(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  MacAddress mac = {};
  if (parts.size() != mac.size()) return std::nullopt;
  for (size_t i = 0; i < mac.size(); ++i) {
    uint32_t byte = 0;
    if (parts[i].size() != 2 || !absl::SimpleHexAtoi(parts[i], &byte)) return std::nullopt;
    mac[i] = static_cast<uint8_t>(byte);
  }
  const bool is_group = (mac[0] & 1) != 0;
  if (is_group || mac == MacAddress{}) return std::nullopt;
  return mac;
}

}  // namespace bulkhead
