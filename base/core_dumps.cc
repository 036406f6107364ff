#include "base/core_dumps.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace bulkhead {

bool KeepMemoryOfChildrenOutOfCoreDumps() {
  rlimit limit;
  if (getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_max != 0) return false;
  limit.rlim_max = 1;
  if (setrlimit(RLIMIT_CORE, &limit) == 0) return false;
  const UniqueFd filter(open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC));
  if (filter.ok()) (void)!write(filter.get(), "0", 1);
  const UniqueFd pattern(open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC));
  char first = 0;
  return pattern.ok() && read(pattern.get(), &first, 1) == 1 && first == '|';
}

void ForbidOwnCoreDumps() { prctl(PR_SET_DUMPABLE, 0); }

}  // namespace bulkhead
