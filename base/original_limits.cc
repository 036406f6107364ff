#include "base/original_limits.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "base/unique_fd.h"

namespace bulkhead {
namespace {

constexpr char kOomScoreAdj[] = "/proc/self/oom_score_adj";
// Thousandths of the host's memory. The processes of one VM differ by the pages that one of them
// has touched and the other has not: a few percent of the guest's RAM.
constexpr int kOomScoreRaise = 100;
constexpr int kMaxOomScoreAdj = 1000;

OriginalLimits& Limits() {
  static OriginalLimits limits;
  return limits;
}

}  // namespace

const OriginalLimits& GetOriginalLimits() { return Limits(); }

void RaiseOpenFileLimit(rlim_t child_minimum) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  rlimit for_children = limit;
  for_children.rlim_cur = std::max(limit.rlim_cur, std::min(child_minimum, limit.rlim_max));
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  Limits().raised_open_files = true;
  Limits().open_files = for_children;
}

void BecomePreferredByOomKiller() {
  const UniqueFd file(open(kOomScoreAdj, O_RDWR | O_CLOEXEC));
  char text[sizeof(OriginalLimits::oom_score_adj)] = "";
  const ssize_t size = file.ok() ? read(file.get(), text, sizeof(text) - 1) : -1;
  if (size <= 0) return;
  const int original = atoi(text);
  const int raised = std::min(original + kOomScoreRaise, kMaxOomScoreAdj);
  char wanted[sizeof(text)];
  const int length = snprintf(wanted, sizeof(wanted), "%d", raised);
  if (pwrite(file.get(), wanted, static_cast<size_t>(length), 0) != length) return;
  snprintf(Limits().oom_score_adj, sizeof(Limits().oom_score_adj), "%d", original);
}

}  // namespace bulkhead
