// The rig as a process; see rig_device.h and registers.h.
#include <stdint.h>

#include <memory>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "devices/host/run_device.h"
#include "devices/rig/misbehaver.h"
#include "devices/rig/registers.h"
#include "devices/rig/rig_device.h"

ABSL_FLAG(bool, crash_at_start, false, "for tests: dies before it says what it is");
ABSL_FLAG(bool, hang_at_start, false, "for tests: never says what it is");
ABSL_FLAG(uint32_t, msix_vectors, bulkhead::devices::rig::kMsixVectors,
          "how many interrupts it has; it uses the first 8");

namespace {

using bulkhead::devices::DeviceModel;
using bulkhead::devices::rig::RigDevice;

absl::StatusOr<std::unique_ptr<DeviceModel>> Create() {
  if (absl::GetFlag(FLAGS_crash_at_start)) bulkhead::devices::rig::Crash();
  if (absl::GetFlag(FLAGS_hang_at_start)) bulkhead::devices::rig::Hang();
  return std::make_unique<RigDevice>(absl::GetFlag(FLAGS_msix_vectors));
}

}  // namespace

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(
      argc, argv,
      {.name = "rig",
       .help = "A PCI device for tests and benchmarks: registers for order, doorbells, interrupts\n"
               "and DMA, and to make it slow, hang or die (devices/rig/registers.h). It takes no\n"
               "resources.",
       .create = Create});
}
