// The network device as a process.
#include <stdint.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/mac_address.h"
#include "base/status_macros.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio_net/net_device.h"

ABSL_FLAG(
    std::string, mac, "",
    "MAC address that the guest is given, such as 52:54:00:12:34:56. The vmm always gives one.");
ABSL_FLAG(uint32_t, mtu, 0, "MTU that the guest is told, 68 to 65521; 0: none.");
ABSL_FLAG(uint32_t, queues, 1,
          "Pairs of queues, 1 to 16, and queues of the TAP. One thread serves them all.");
ABSL_FLAG(uint32_t, queue_size, 256,
          "Entries of a queue, a power of two from 16 to 1024: frames or buffers of frames.");

ABSL_FLAG(bool, offloads, true,
          "Checksums and segmentation of TCP may be left to the TAP, and to the guest.");
ABSL_FLAG(uint64_t, bps, 0,
          "Bytes of frames a second that the guest may send, and as many that it may receive. 0: "
          "any number.");
ABSL_FLAG(
    uint64_t, pps, 0,
    "Frames a second that the guest may send, and as many that it may receive. 0: any number.");
ABSL_FLAG(uint64_t, bps_burst, 0,
          "Bytes that may come at once after a pause. 0: what --bps gives in 100 ms.");
ABSL_FLAG(uint64_t, pps_burst, 0,
          "Frames that may come at once after a pause. 0: what --pps gives in 100 ms.");

namespace bulkhead::devices::virtio {
namespace {

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateNet() {
  const std::optional<MacAddress> mac = ParseMacAddress(absl::GetFlag(FLAGS_mac));
  if (!mac.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--mac=", absl::GetFlag(FLAGS_mac),
                     ": must be the address of one station, such as 52:54:00:12:34:56"));
  }
  ASSIGN_OR_RETURN(
      std::unique_ptr<NetDevice> device,
      NetDevice::Create({.mac = *mac,
                         .pairs = absl::GetFlag(FLAGS_queues),
                         .queue_size = absl::GetFlag(FLAGS_queue_size),
                         .mtu = absl::GetFlag(FLAGS_mtu),
                         .offloads = absl::GetFlag(FLAGS_offloads),
                         .limits = {.bytes_per_second = absl::GetFlag(FLAGS_bps),
                                    .operations_per_second = absl::GetFlag(FLAGS_pps),
                                    .bytes_burst = absl::GetFlag(FLAGS_bps_burst),
                                    .operations_burst = absl::GetFlag(FLAGS_pps_burst)}}));
  return std::make_unique<PciTransport>(std::move(device));
}

constexpr DeviceProgram kProgram = {
    .name = "virtio-net",
    .help = "a network device over virtio. Resources 'tap', 'tap.1', ...: the queues of a TAP.",
    .create = CreateNet,
};

}  // namespace
}  // namespace bulkhead::devices::virtio

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::virtio::kProgram);
}
