// The watchdog i6300esb in a process of its own.
#include <memory>

#include "absl/status/statusor.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/i6300esb/watchdog_device.h"

namespace bulkhead::devices::i6300esb {
namespace {

constexpr DeviceProgram kProgram = {
    .name = "i6300esb",
    .help =
        "a watchdog: the timer of Intel's 6300ESB (PCI 8086:25ab).\n"
        "Resource: vm, a link to the vmm, which does what --watchdog says when it expires.",
    .create = []() -> absl::StatusOr<std::unique_ptr<DeviceModel>> {
      return std::make_unique<WatchdogDevice>();
    },
};

}  // namespace
}  // namespace bulkhead::devices::i6300esb

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::i6300esb::kProgram);
}
