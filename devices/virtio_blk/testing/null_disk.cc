// A disk that does no I/O, for measurements: requests take the way of virtio_blk's, and their
// operations end as soon as they begin. Reads leave the guest's buffers as they are; writes are
// forgotten. Resource "disk": a file, which gives it its size.
#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "base/event_fd.h"
#include "base/status_macros.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/disk_engine.h"

ABSL_FLAG(uint32_t, queues, 1, "As of virtio_blk.");

namespace bulkhead::devices::virtio {
namespace {

class NullEngine : public DiskEngine {
 public:
  // `event`: is never signalled.
  NullEngine(EventFd event, uint32_t max_operations) : event_(std::move(event)) {
    ended_.reserve(max_operations);
  }

  void Prepare(const FileOperation& operation, uint64_t id) override {
    const bool transfers = !operation.buffers.empty();
    ended_.push_back({.id = id, .result = transfers ? static_cast<int32_t>(operation.length) : 0});
  }
  bool Submit() override { return true; }
  bool Reap(Result& result) override {
    if (reaped_ == ended_.size()) {
      ended_.clear();
      reaped_ = 0;
      return false;
    }
    result = ended_[reaped_++];
    return true;
  }
  bool has_results() const override { return in_flight() != 0; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(ended_.size() - reaped_); }
  int fd() const override { return event_.fd(); }

 private:
  const EventFd event_;
  std::vector<Result> ended_;  // the first reaped_ of them are reaped
  size_t reaped_ = 0;
};

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateNullDisk() {
  // kIoUring: without an engine for writes beside this one.
  ASSIGN_OR_RETURN(
      std::unique_ptr<BlockDevice> device,
      BlockDevice::Create({.queues = absl::GetFlag(FLAGS_queues), .engine = EngineKind::kIoUring}));
  device->set_engine_factory(
      [](const DiskFile&, uint32_t max_operations) -> absl::StatusOr<ChosenEngine> {
        ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
        return ChosenEngine{std::make_unique<NullEngine>(std::move(event), max_operations)};
      });
  return std::make_unique<PciTransport>(std::move(device));
}

constexpr DeviceProgram kProgram = {
    .name = "virtio-blk-null",
    .help =
        "a disk over virtio that does no I/O, for measurements. Resource 'disk': a file of its "
        "size.",
    .create = CreateNullDisk,
};

}  // namespace
}  // namespace bulkhead::devices::virtio

int main(int argc, char** argv) {
  return bulkhead::devices::RunDevice(argc, argv, bulkhead::devices::virtio::kProgram);
}
