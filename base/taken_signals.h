#ifndef BULKHEAD_BASE_TAKEN_SIGNALS_H_
#define BULKHEAD_BASE_TAKEN_SIGNALS_H_

#include <initializer_list>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead {

// Brings what this process inherited of signals into a known state: none is blocked, a child's end
// is told, and a write to a pipe without a reader, or beyond the file size limit, is an error and
// not the end of the process. Call before threads start.
void ResetInheritedSignals();

// Takes these signals: from now on they are read from the descriptor, a non-blocking signalfd, and
// do nothing else. Those that the parent had ignored stay ignored: nohup(1) and a shell's
// background jobs count on it, but a signal that is blocked is queued even if it is ignored. Call
// before threads start: they inherit the mask. Errors: as signalfd(2).
absl::StatusOr<UniqueFd> TakeSignals(std::initializer_list<int> signals);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TAKEN_SIGNALS_H_
