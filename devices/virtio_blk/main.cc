// The disk as a process.
#include <stdint.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/disk_engine.h"
#include "proto/channel/channel_memory.h"

ABSL_FLAG(
    uint32_t, queues, 1,
    "Request queues, 1 to 32. One thread serves them all; more than one lets the guest's CPUs "
    "submit without sharing a lock, and each have its completions.");
ABSL_FLAG(uint32_t, queue_size, 256,
          "Entries of a queue, a power of two from 4 to 1024: requests in flight, and buffers of "
          "one request.");
ABSL_FLAG(std::string, serial, "",
          "Serial number that the guest sees, up to 20 bytes (/dev/disk/by-id/virtio-SERIAL).");
ABSL_FLAG(bool, readonly, false,
          "Refuse writes, even if the disk could be written. A disk that was opened for reading "
          "only is read-only anyway.");
ABSL_FLAG(bool, discard, true,
          "What the guest discards, or zeroes and does not need (unmap), gives its space back to "
          "the host. --discard=false: the guest is offered neither, and zeroes keep their space.");
ABSL_FLAG(std::string, on_error, "report",
          "When the host has no space for a request, or the medium fails: report an error to the "
          "guest, or pause the VM, and try again when it is resumed. Given by the vmm, with "
          "resource 'errors'.");
ABSL_FLAG(uint64_t, bps, 0, "Bytes a second that the guest may read and write. 0: any number.");
ABSL_FLAG(uint64_t, iops, 0, "Requests a second that the guest may make. 0: any number.");
ABSL_FLAG(uint64_t, bps_burst, 0,
          "Bytes that may come at once after a pause. 0: what --bps gives in 100 ms.");
ABSL_FLAG(uint64_t, iops_burst, 0,
          "Requests that may come at once after a pause. 0: what --iops gives in 100 ms.");
ABSL_FLAG(
    std::string, io_engine, "auto",
    "What carries out I/O: io_uring, threads, or auto: the disk's own thread where the file is "
    "in memory (tmpfs), further threads for writes to other files (one where they go to the page "
    "cache, else up to 16), and for all else io_uring, or threads where the host does not permit "
    "it.");

namespace bulkhead::devices::virtio {
namespace {

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateDisk() {
  ASSIGN_OR_RETURN(const EngineKind engine, ParseEngineKind(absl::GetFlag(FLAGS_io_engine)));
  const std::string on_error = absl::GetFlag(FLAGS_on_error);
  if (on_error != "report" && on_error != "pause") {
    return absl::InvalidArgumentError(
        absl::StrCat("--on_error=", on_error, ": must be report or pause"));
  }
  ASSIGN_OR_RETURN(
      std::unique_ptr<BlockDevice> device,
      BlockDevice::Create({.queues = absl::GetFlag(FLAGS_queues),
                           .queue_size = absl::GetFlag(FLAGS_queue_size),
                           .serial = absl::GetFlag(FLAGS_serial),
                           .read_only = absl::GetFlag(FLAGS_readonly),
                           .discard = absl::GetFlag(FLAGS_discard),
                           .limits = {.bytes_per_second = absl::GetFlag(FLAGS_bps),
                                      .operations_per_second = absl::GetFlag(FLAGS_iops),
                                      .bytes_burst = absl::GetFlag(FLAGS_bps_burst),
                                      .operations_burst = absl::GetFlag(FLAGS_iops_burst)},
                           .pause_on_error = on_error == "pause",
                           .engine = engine,
                           .await_writes = channel::AvailableCpus() <= 2,
                           .forbid_new_rings = true}));
  return std::make_unique<PciTransport>(std::move(device));
}

constexpr DeviceProgram kProgram = {
    .name = "virtio-blk",
    .help = "a disk over virtio. Resource 'disk': the file or block device that holds it.",
    .create = CreateDisk,
};

}  // namespace
}  // namespace bulkhead::devices::virtio

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::virtio::kProgram);
}
