// pvpanic in a process of its own.
#include <memory>

#include "absl/status/statusor.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/pvpanic/panic_device.h"

namespace bulkhead::devices::pvpanic {
namespace {

constexpr DeviceProgram kProgram = {
    .name = "pvpanic",
    .help =
        "by which a guest's kernel reports that it has crashed (PCI 1b36:0011).\n"
        "Resource: vm, a link to the vmm, which does what --on-panic says.",
    .create = []() -> absl::StatusOr<std::unique_ptr<DeviceModel>> {
      return std::make_unique<PanicDevice>();
    },
};

}  // namespace
}  // namespace bulkhead::devices::pvpanic

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::pvpanic::kProgram);
}
