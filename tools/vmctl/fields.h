#ifndef BULKHEAD_TOOLS_VMCTL_FIELDS_H_
#define BULKHEAD_TOOLS_VMCTL_FIELDS_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {

// Lines of "Name          value", the values in one column.
class Fields {
 public:
  static constexpr size_t kColumn = 14;

  // A line for `value`, or none if that is empty. "" as `name` continues the one before.
  void Add(absl::string_view name, absl::string_view value) {
    if (value.empty()) return;
    const size_t padding = name.size() < kColumn ? kColumn - name.size() : 1;
    absl::StrAppend(&text_, name, std::string(padding, ' '), value, "\n");
  }
  void AddLines(absl::string_view lines) { absl::StrAppend(&text_, lines); }

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_FIELDS_H_
