#ifndef BULKHEAD_VMM_BACK_END_UNNAMED_LISTENER_H_
#define BULKHEAD_VMM_BACK_END_UNNAMED_LISTENER_H_

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A listening unix socket without a name: others connect to it as /proc/self/fd/ANCHOR. So no file
// is left behind, and no other process can reach it.
struct UnnamedListener {
  UniqueFd socket;
  UniqueFd anchor;  // O_PATH
};

// Errors: as mkdtemp(3), socket(2), bind(2), listen(2), open(2).
absl::StatusOr<UnnamedListener> MakeUnnamedListener();

// A connection to it, which waits there until it is accepted. Errors: as socket(2), connect(2).
absl::StatusOr<UniqueFd> ConnectTo(const UnnamedListener& listener);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BACK_END_UNNAMED_LISTENER_H_
