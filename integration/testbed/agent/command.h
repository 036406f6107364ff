#ifndef BULKHEAD_INTEGRATION_TESTBED_AGENT_COMMAND_H_
#define BULKHEAD_INTEGRATION_TESTBED_AGENT_COMMAND_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "integration/testbed/agent/port.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {

// Runs the command of `request` and passes its standard streams through `port`. When it ends, every
// other process is killed. Returns an exit code as a shell does: 128 + signal if the command was
// killed, 127 if it was not found, 126 if it cannot be executed. Call once, in PID 1,
// single-threaded. Blocks as long as the command runs: the launcher has the time limit, and kills
// the whole virtual machine. Errors: fork, pipe and terminal errors; Unavailable (the launcher is
// gone).
absl::StatusOr<uint32_t> RunCommand(const StartRequest& request, Port& port);

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_AGENT_COMMAND_H_
