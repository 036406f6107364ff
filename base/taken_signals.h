#ifndef BULKHEAD_BASE_TAKEN_SIGNALS_H_
#define BULKHEAD_BASE_TAKEN_SIGNALS_H_

#include <initializer_list>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead {

// Resets the signal state that this process inherited: none is blocked, children can be waited for,
// and a write to a pipe without a reader, or beyond the file size limit, is an error instead of the
// end of the process. Call before threads start.
void ResetInheritedSignals();

// Blocks these signals and returns a non-blocking signalfd that reads them. Signals that the parent
// had ignored stay ignored and are left out: nohup(1) and a shell's background jobs rely on that,
// and a blocked signal is queued even if it is ignored. Call before threads start: they inherit the
// mask. Errors: as signalfd(2).
absl::StatusOr<UniqueFd> TakeSignals(std::initializer_list<int> signals);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TAKEN_SIGNALS_H_
