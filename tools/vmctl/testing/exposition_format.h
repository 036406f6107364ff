#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_EXPOSITION_FORMAT_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_EXPOSITION_FORMAT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {

// What is wrong with a text in Prometheus's exposition format (version 0.0.4), a line each: what a
// server would refuse, and what `promtool check metrics` says of it. Empty: nothing.
//   - each family has its HELP and its TYPE once, before its samples, which stand together
//   - no series, a name with its labels, stands twice
//   - a counter's name ends in _total, and no other's
//   - a histogram has rising buckets, the last +Inf and equal to _count, and a _sum
std::vector<std::string> ProblemsOfExposition(absl::string_view text);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_EXPOSITION_FORMAT_H_
