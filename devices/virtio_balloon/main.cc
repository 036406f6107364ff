// The memory balloon as a process.
#include <memory>

#include "absl/status/statusor.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio_balloon/balloon_device.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr DeviceProgram kProgram = {
    .name = "virtio-balloon",
    .help =
        "a memory balloon over virtio: the guest gives memory back to the host. Resource 'target': "
        "how much, from the vmm.",
    .create = []() -> absl::StatusOr<std::unique_ptr<DeviceModel>> {
      return std::make_unique<PciTransport>(std::make_unique<BalloonDevice>());
    },
};

}  // namespace
}  // namespace bulkhead::devices::virtio

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::virtio::kProgram);
}
