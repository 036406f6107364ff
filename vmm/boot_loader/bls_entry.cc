#include "vmm/boot_loader/bls_entry.h"

#include <stddef.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace bulkhead::boot_loader {
namespace {

bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }
bool IsAlpha(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)); }

// Takes the first characters for which `is` holds.
template <typename Is>
absl::string_view Take(absl::string_view& text, Is is) {
  const auto end = std::find_if_not(text.begin(), text.end(), is);
  const absl::string_view taken = text.substr(0, static_cast<size_t>(end - text.begin()));
  text.remove_prefix(taken.size());
  return taken;
}

}  // namespace

BlsEntry ParseBlsEntry(absl::string_view id, absl::string_view text) {
  BlsEntry entry;
  entry.id = std::string(id);
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const size_t blank = line.find_first_of(" \t");
    if (blank == absl::string_view::npos) continue;
    const absl::string_view key = line.substr(0, blank);
    const absl::string_view value = absl::StripLeadingAsciiWhitespace(line.substr(blank));
    if (key == "title") {
      entry.title = std::string(value);
    } else if (key == "linux") {
      entry.linux = std::string(value);
    } else if (key == "initrd") {
      // Fedora writes several into one line.
      for (const absl::string_view path : absl::StrSplit(value, ' ', absl::SkipEmpty())) {
        entry.initrds.emplace_back(path);
      }
    } else if (key == "options") {
      absl::StrAppend(&entry.options, entry.options.empty() ? "" : " ", value);
    }
  }
  return entry;
}

int CompareVersions(absl::string_view a, absl::string_view b) {
  const auto is_separator = [](char c) { return !IsDigit(c) && !IsAlpha(c) && c != '~'; };
  while (true) {
    Take(a, is_separator);
    Take(b, is_separator);
    const bool a_is_before = !a.empty() && a[0] == '~';
    const bool b_is_before = !b.empty() && b[0] == '~';
    if (a_is_before != b_is_before) return a_is_before ? -1 : 1;
    if (a_is_before) {
      a.remove_prefix(1);
      b.remove_prefix(1);
      continue;
    }
    if (a.empty() || b.empty()) return static_cast<int>(!a.empty()) - static_cast<int>(!b.empty());
    if (IsDigit(a[0]) != IsDigit(b[0])) return IsDigit(a[0]) ? 1 : -1;
    int order = 0;
    if (IsDigit(a[0])) {
      Take(a, [](char c) { return c == '0'; });
      Take(b, [](char c) { return c == '0'; });
      const absl::string_view number_a = Take(a, IsDigit);
      const absl::string_view number_b = Take(b, IsDigit);
      if (number_a.size() != number_b.size()) return number_a.size() < number_b.size() ? -1 : 1;
      order = number_a.compare(number_b);
    } else {
      order = Take(a, IsAlpha).compare(Take(b, IsAlpha));
    }
    if (order != 0) return order;
  }
}

}  // namespace bulkhead::boot_loader
