// The entropy source as a process.
#include <memory>

#include "absl/status/statusor.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio_rng/rng_device.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr DeviceProgram kProgram = {
    .name = "virtio-rng",
    .help = "an entropy source over virtio, fed by the host kernel. It takes no resources.",
    .create = []() -> absl::StatusOr<std::unique_ptr<DeviceModel>> {
      return std::make_unique<PciTransport>(std::make_unique<RngDevice>());
    },
};

}  // namespace
}  // namespace bulkhead::devices::virtio

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::virtio::kProgram);
}
