// The example device as a process.
#include <memory>

#include "absl/status/statusor.h"
#include "devices/example/example_device.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"

namespace bulkhead::devices::example {
namespace {

constexpr DeviceProgram kProgram = {
    .name = "example",
    .help =
        "a PCI device for device authors to copy: it adds up bytes of guest memory\n"
        "(devices/example/registers.h). It takes no resources.",
    .create = []() -> absl::StatusOr<std::unique_ptr<DeviceModel>> {
      return std::make_unique<ExampleDevice>();
    },
};

}  // namespace
}  // namespace bulkhead::devices::example

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::example::kProgram);
}
