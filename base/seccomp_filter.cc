#include "base/seccomp_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"

namespace bulkhead {

absl::Status InstallSeccompFilter(absl::string_view bytes) {
  if (bytes.empty()) return absl::OkStatus();
  std::vector<sock_filter> instructions(bytes.size() / sizeof(sock_filter));
  if (bytes.size() % sizeof(sock_filter) != 0 || instructions.size() > BPF_MAXINSNS) {
    return absl::InvalidArgumentError(
        absl::StrCat("the seccomp filter has ", bytes.size(), " bytes"));
  }
  memcpy(instructions.data(), bytes.data(), bytes.size());
  const sock_fprog filter = {.len = static_cast<uint16_t>(instructions.size()),
                             .filter = instructions.data()};
  const int64_t result =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
  if (result == 0) return absl::OkStatus();
  // Positive: the number of a thread that has other filters.
  return ErrnoToStatus(result > 0 ? EBUSY : errno, "seccomp");
}

}  // namespace bulkhead
