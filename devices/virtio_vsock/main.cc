// The socket device as a process.
#include <stdint.h>

#include <memory>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio_vsock/vsock_device.h"

ABSL_FLAG(uint64_t, cid, 0, "The guest's address (CID): 3 to 4294967294.");

namespace bulkhead::devices::virtio {
namespace {

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateVsock() {
  ASSIGN_OR_RETURN(std::unique_ptr<VsockDevice> device,
                   VsockDevice::Create(absl::GetFlag(FLAGS_cid)));
  return std::make_unique<PciTransport>(std::move(device));
}

constexpr DeviceProgram kProgram = {
    .name = "virtio-vsock",
    .help =
        "sockets between the guest and the host over virtio. Resource 'host': the vmm's end, "
        "which accepts and connects on the host.",
    .create = CreateVsock,
};

}  // namespace
}  // namespace bulkhead::devices::virtio

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::virtio::kProgram);
}
