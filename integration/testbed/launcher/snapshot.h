#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SNAPSHOT_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SNAPSHOT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "integration/testbed/launcher/virtual_machine.h"

namespace bulkhead::testbed {

// The testbed that a snapshot is made of and hence the one that starts quickly.
inline constexpr int kSnapshotCpus = 1;
inline constexpr int kSnapshotMemoryMib = 2048;

// Waits until the agent of a machine is up and writes the machine's state to `path`, which
// stops it. Blocks until `deadline` at most.
// Errors: DeadlineExceeded; Internal (what QEMU says).
absl::Status SaveSnapshot(VirtualMachine& machine, const std::string& path, absl::Time deadline);

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SNAPSHOT_H_
