#include "base/own_limits.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "base/unique_fd.h"

namespace bulkhead {
namespace {

constexpr char kOomScoreAdj[] = "/proc/self/oom_score_adj";
// In thousandths of the host's memory. More than the sizes of one VM's processes differ: each
// counts the pages of guest RAM that it has touched, and these differ by a few percent of that RAM.
constexpr int kOomScoreRaise = 100;
constexpr int kMaxOomScoreAdj = 1000;

}  // namespace

void RaiseOpenFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void BecomePreferredByOomKiller() {
  const UniqueFd file(open(kOomScoreAdj, O_RDWR | O_CLOEXEC));
  char text[8] = "";
  const ssize_t size = file.ok() ? read(file.get(), text, sizeof(text) - 1) : -1;
  if (size <= 0) return;
  const int original = atoi(text);
  const int raised = std::min(original + kOomScoreRaise, kMaxOomScoreAdj);
  char wanted[sizeof(text)];
  const int length = snprintf(wanted, sizeof(wanted), "%d", raised);
  (void)!pwrite(file.get(), wanted, static_cast<size_t>(length), 0);
}

}  // namespace bulkhead
