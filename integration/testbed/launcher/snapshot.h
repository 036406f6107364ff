#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SNAPSHOT_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SNAPSHOT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "integration/testbed/launcher/virtual_machine.h"

namespace bulkhead::testbed {

// The configuration of the snapshot: only a testbed with the same one starts quickly.
inline constexpr int kSnapshotCpus = 1;
inline constexpr int kSnapshotMemoryMib = 2048;

// Waits until the agent of a machine is up, then stops the machine and writes its state to `path`.
// Blocks until `deadline` at most. Errors: DeadlineExceeded; Internal (an error of QEMU).
absl::Status SaveSnapshot(VirtualMachine& machine, const std::string& path, absl::Time deadline);

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SNAPSHOT_H_
