#include "tools/vmctl/table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bulkhead::vmctl {
namespace {

constexpr size_t kGap = 2;

// At most `columns` characters of UTF-8 text.
std::string Cut(const std::string& text, size_t columns) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins_character = (static_cast<uint8_t>(text[i]) & 0xc0) != 0x80;
    if (begins_character && ++count > columns) return text.substr(0, i);
  }
  return text;
}

}  // namespace

std::string Table::Text(size_t width, bool color) const {
  std::vector<std::vector<Cell>> lines;
  lines.emplace_back(headings_.begin(), headings_.end());
  lines.insert(lines.end(), rows_.begin(), rows_.end());
  std::vector<size_t> widths(headings_.size(), 0);
  for (std::vector<Cell>& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      if (line[i].text.empty()) line[i].text.push_back('-');
      widths[i] = std::max(widths[i], line[i].text.size());
    }
  }
  std::string result;
  for (const std::vector<Cell>& line : lines) {
    size_t column = 0;
    for (size_t i = 0; i < line.size(); ++i) {
      const size_t room = width == 0 ? line[i].text.size() : width - std::min(width, column);
      absl::StrAppend(&result, Colored(Cut(line[i].text, room), line[i].color, color));
      column += widths[i] + kGap;
      const size_t padding = widths[i] - line[i].text.size() + kGap;
      if (i + 1 < line.size() && (width == 0 || column < width)) result.append(padding, ' ');
    }
    result.push_back('\n');
  }
  return result;
}

}  // namespace bulkhead::vmctl
