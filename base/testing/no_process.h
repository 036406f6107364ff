#ifndef BULKHEAD_BASE_TESTING_NO_PROCESS_H_
#define BULKHEAD_BASE_TESTING_NO_PROCESS_H_

#include <sys/types.h>

#include <limits>

namespace bulkhead {

// No process has this pid, so kill(2) answers ESRCH. (-1 would mean every process there is.)
inline constexpr pid_t kNoProcess = std::numeric_limits<pid_t>::max();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_NO_PROCESS_H_
