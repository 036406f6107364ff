#ifndef BULKHEAD_INTEGRATION_TESTBED_AGENT_SETUP_H_
#define BULKHEAD_INTEGRATION_TESTBED_AGENT_SETUP_H_

#include "absl/status/status.h"
#include "integration/testbed/wire.h"

// The steps of PID 1 of the testbed before the command starts. Each call blocks until it is done.
namespace bulkhead::testbed {

// Mounts /proc, /sys and /dev of the initramfs and loads the modules listed in /modules.load.
absl::Status StartKernelServices();

// Makes the host's file system the root: read-only below a memory-backed overlay, so the
// command may write anywhere, but only the writable folders of the request reach the host.
// Fresh /proc, /sys, /dev, /dev/pts, /dev/shm and /sys/fs/cgroup are mounted in it, and the modules
// of this kernel at their place in /lib/modules.
absl::Status EnterHostRoot(const StartRequest& request);

// Host name, clock, random generator, loopback interface and resource limits. Failures are reported
// on the console and otherwise ignored: most commands need none of these.
void SetUpEnvironment(const StartRequest& request);

// Writes everything below the writable folders through to the host.
absl::Status FlushWritableFolders(const StartRequest& request);

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_AGENT_SETUP_H_
