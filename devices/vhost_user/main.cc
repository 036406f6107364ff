// The front of a vhost-user back end as a process.
#include <stdint.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/vhost_user/device_kind.h"
#include "devices/vhost_user/lending_device.h"
#include "devices/vhost_user/relaying_device.h"
#include "devices/virtio/pci_transport.h"

ABSL_FLAG(std::string, type, "blk", "What the back end serves: blk (a disk) or fs (virtio-fs).");
ABSL_FLAG(uint32_t, queues, 1, "Request queues: 1 to 64, or to 63 for fs.");
ABSL_FLAG(uint32_t, queue_size, 128, "Entries of a queue, a power of two from 4 to 1024.");
ABSL_FLAG(bool, relay, false,
          "Requests pass through this process, so that no back end takes any with it when it dies: "
          "the next one gets them. A new back end of fs answers them with an error.");
ABSL_FLAG(std::string, tag, "", "Of fs: the name by which the guest mounts it, up to 36 bytes.");

namespace bulkhead::devices::vhost_user {
namespace {

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateDevice() {
  ASSIGN_OR_RETURN(DeviceKind kind, MakeDeviceKind({.type = absl::GetFlag(FLAGS_type),
                                                    .queues = absl::GetFlag(FLAGS_queues),
                                                    .queue_size = absl::GetFlag(FLAGS_queue_size),
                                                    .relay = absl::GetFlag(FLAGS_relay),
                                                    .tag = absl::GetFlag(FLAGS_tag)}));
  if (kind.relays) {
    return std::make_unique<virtio::PciTransport>(
        std::make_unique<RelayingDevice>(std::move(kind)));
  }
  return std::make_unique<virtio::PciTransport>(std::make_unique<LendingDevice>(std::move(kind)));
}

constexpr DeviceProgram kProgram = {
    .name = "vhost-user",
    .help =
        "a virtio device whose queues a vhost-user back end serves. Resource 'back_end': the "
        "unix socket on which the back end listens.",
    .create = CreateDevice,
};

}  // namespace
}  // namespace bulkhead::devices::vhost_user

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::vhost_user::kProgram);
}
