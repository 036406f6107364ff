// The example device as a process; see example_device.h and registers.h.

#include <memory>

#include "absl/status/statusor.h"
#include "devices/example/example_device.h"
#include "devices/host/run_device.h"

namespace {

using bulkhead::devices::DeviceModel;
using bulkhead::devices::example::ExampleDevice;

absl::StatusOr<std::unique_ptr<DeviceModel>> Create() { return std::make_unique<ExampleDevice>(); }

}  // namespace

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(
      argc, argv,
      {.name = "example",
       .help = "A PCI device for device authors to copy and for tests: registers for order,\n"
               "doorbells, interrupts and DMA (devices/example/registers.h). It takes no\n"
               "resources and has no flags of its own.",
       .create = Create});
}
