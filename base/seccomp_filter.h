#ifndef BULKHEAD_BASE_SECCOMP_FILTER_H_
#define BULKHEAD_BASE_SECCOMP_FILTER_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead {

// Installs a seccomp filter (`bytes`: as sock_filter of linux/filter.h) in all threads, for good.
// Does nothing with an empty one. Errors: InvalidArgument (its size), and as seccomp(2).
absl::Status InstallSeccompFilter(absl::string_view bytes);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SECCOMP_FILTER_H_
