// Boots the testbed once and writes its state to a file, for //integration/testbed to go on
// from. usage: make_snapshot KERNEL INITRAMFS OUTPUT

#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "integration/testbed/launcher/snapshot.h"
#include "integration/testbed/launcher/virtual_machine.h"

namespace bulkhead::testbed {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);  // 5 s where nothing else runs

absl::Status Run(const char* kernel, const char* initramfs, const char* output) {
  VirtualMachineConfig config;
  config.kernel = kernel;
  config.initramfs = initramfs;
  config.cpus = kSnapshotCpus;
  config.memory_mib = kSnapshotMemoryMib;
  ASSIGN_OR_RETURN(VirtualMachine machine, VirtualMachine::Start(config));
  const absl::Status status = SaveSnapshot(machine, output, SteadyNow() + kTimeout);
  if (!status.ok()) {
    char console[16 << 10];
    const ssize_t count = read(machine.console_fd(), console, sizeof(console));
    if (count > 0) std::fwrite(console, 1, count, stderr);
  }
  return status;
}

}  // namespace
}  // namespace bulkhead::testbed

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  if (argc != 4) {
    std::fprintf(stderr, "usage: make_snapshot KERNEL INITRAMFS OUTPUT\n");
    return 2;
  }
  const absl::Status status = bulkhead::testbed::Run(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::fprintf(stderr, "make_snapshot: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
