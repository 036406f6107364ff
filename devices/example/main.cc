// The example device as a process; see example_device.h and registers.h.

#include <memory>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "devices/example/example_device.h"
#include "devices/example/test_aids.h"
#include "devices/host/run_device.h"

ABSL_FLAG(bool, crash_at_start, false, "for tests: dies before it says what it is");
ABSL_FLAG(bool, hang_at_start, false, "for tests: never says what it is");

namespace {

using bulkhead::devices::DeviceModel;
using bulkhead::devices::example::ExampleDevice;

absl::StatusOr<std::unique_ptr<DeviceModel>> Create() {
  if (absl::GetFlag(FLAGS_crash_at_start)) bulkhead::devices::example::Crash();
  if (absl::GetFlag(FLAGS_hang_at_start)) bulkhead::devices::example::Hang();
  return std::make_unique<ExampleDevice>();
}

}  // namespace

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(
      argc, argv,
      {.name = "example",
       .help = "A PCI device for device authors to copy and for tests: registers for order,\n"
               "doorbells, interrupts and DMA (devices/example/registers.h). It takes no\n"
               "resources.",
       .create = Create});
}
