// A driver that does what a good one does, in any order, with mostly valid chains, and with what
// no driver may do strewn in: against the whole disk, transport and io_uring included. Whatever
// happened, a reset ends and the disk works again. Inputs take turns with the two engines.
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/memory_mapping.h"
#include "base/testing/fuzz_input.h"
#include "base/unique_fd.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/hostile_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/disk_engine.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kSectors = 128;
constexpr uint16_t kQueueSize = 16;
constexpr uint16_t kQueues = 2;
constexpr uint64_t kFeatures = ~uint64_t{0};
constexpr uint64_t kArenaSize = 0x4000;  // headers, data and status bytes

class HostileDiskDriver : public HostileDriver {
 public:
  explicit HostileDiskDriver(FuzzInput input)
      : HostileDriver(input, kArenaSize),
        file_(CreateMemfd("disk", kSectors * kSectorSize).value()) {
    services_.AddResource("disk", UniqueFd(fcntl(file_.get(), F_DUPFD_CLOEXEC, 0)));
    model_ = std::make_unique<PciTransport>(
        BlockDevice::Create(
            {.queues = kQueues,
             .queue_size = kQueueSize,
             .engine = input_.Take(1) % 4 == 1 ? EngineKind::kThreads : EngineKind::kIoUring})
            .value());
    Require(model_->Start(services_).ok(), "the device starts");
    driver_ = std::make_unique<FakeDriver>(*model_, services_);
    Require(driver_->Initialize(kFeatures), "the device initializes");
  }

  void Run() {
    while (!input_.empty()) Step();
    Require(driver_->Reset(), "a reset ends");
    Reinitialize();
    AddRequest(0, kBlockIn, 3, 512);
    Require(driver_->KickAndWait(0).has_value(), "it works after a reset");
    CheckUntouched();
    struct stat info;
    Require(fstat(file_.get(), &info) == 0 && info.st_size == kSectors * kSectorSize,
            "the disk has its size");
  }

 private:
  void Reinitialize() override {
    driver_ = std::make_unique<FakeDriver>(*model_, services_);
    Require(driver_->Initialize(kFeatures), "the device initializes again");
  }

  void Step() {
    const uint8_t what = static_cast<uint8_t>(input_.Take(1));
    const uint16_t queue = what / 16 % kQueues;
    switch (what % 16) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4: {
        constexpr uint32_t kTypes[] = {kBlockIn,    kBlockOut,   kBlockDiscardCommand,
                                       kBlockIn,    kBlockOut,   kBlockWriteZeroesCommand,
                                       kBlockGetId, 0x80000001u, kBlockFlushCommand};
        const uint32_t type = kTypes[input_.Take(1) % 9];
        const uint64_t sector = input_.Take(1) % (kSectors + 2);
        AddRequest(queue, type, sector, 512 * (input_.Take(1) % 9));
        return;
      }
      default:
        Meddle(what, queue);
        return;
    }
  }

  void AddRequest(uint16_t queue, uint32_t type, uint64_t sector, uint32_t data_bytes) {
    const GuestAddress header = AnyArenaAddress();
    services_.memory().WriteObject(header, BlockHeader{type, 0, sector});
    std::vector<Buffer> buffers = {{header, sizeof(BlockHeader), false}};
    const GuestAddress data = AnyArenaAddress();
    const bool ranges = type == kBlockDiscardCommand || type == kBlockWriteZeroesCommand;
    if (ranges) {
      data_bytes = 16 + data_bytes / 512 % 4 * 16;
      for (uint64_t i = 0; i < data_bytes; i += sizeof(BlockRange)) {
        services_.memory().WriteObject(
            data + i, BlockRange{input_.Take(1) % kSectors, static_cast<uint32_t>(input_.Take(1)),
                                 static_cast<uint32_t>(input_.Take(1) % 4 == 1)});
      }
    }
    if (type == kBlockGetId) data_bytes = 20;
    const bool writable = type == kBlockIn || type == kBlockGetId;
    // Cut in two, at any place.
    const uint32_t cut = data_bytes == 0 ? 0 : static_cast<uint32_t>(input_.Take(1)) % data_bytes;
    buffers.push_back({data, cut, writable});
    buffers.push_back({data + cut, data_bytes - cut, writable});
    if (input_.Take(1) % 32 != 1) buffers.push_back({AnyArenaAddress(), 1, true});
    AddChain(queue, buffers);
  }

  UniqueFd file_;
};

}  // namespace
}  // namespace bulkhead::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::devices::virtio;                               // NOLINT
  HostileDiskDriver(bulkhead::FuzzInput(data, size)).Run();
  return 0;
}
