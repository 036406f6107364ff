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
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_bar.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/disk_engine.h"
#include "proto/contract.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kMemorySize = 1 << 20;
constexpr uint64_t kSectors = 128;
constexpr uint16_t kQueueSize = 16;
constexpr uint16_t kQueues = 2;
constexpr uint64_t kFeatures = ~uint64_t{0};
// The device never gets its address, and must not write there.
constexpr GuestAddress kUntouchable = kMemorySize - 4096;
// Headers, data and status bytes; headers at fixed places so that inputs can hit them.
constexpr GuestAddress kArena = 0x80000;
constexpr uint64_t kArenaSize = 0x4000;

class HostileDriver {
 public:
  explicit HostileDriver(FuzzInput input)
      : input_(input),
        file_(CreateMemfd("disk", kSectors * kSectorSize).value()),
        services_({{0, kMemorySize}}) {
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
    for (uint64_t i = 0; i < 4096; i += 8) {
      uint64_t value = 1;
      services_.memory().ReadObject(kUntouchable + i, value);
      Require(value == 0, "memory was written that no chain has named");
    }
    struct stat info;
    Require(fstat(file_.get(), &info) == 0 && info.st_size == kSectors * kSectorSize,
            "the disk has its size");
  }

 private:
  void Reinitialize() {
    // A fresh driver: its allocator starts anew, below the arena.
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
      case 5:
      case 6:
        driver_->Kick(queue);
        return;
      case 7:
        model_->OnDoorbell(what / 16);
        return;
      case 8:
        services_.RunWatches(0);
        return;
      case 9:
        while (driver_->queue(queue).PopUsed().has_value()) {
        }
        return;
      case 10:  // a descriptor of the ring or of the indirect tables becomes something else
        driver_->queue(queue).WriteDescriptor(what / 16, AnyDescriptor());
        return;
      case 11:
        driver_->queue(queue).MakeAvailable(static_cast<uint16_t>(input_.Take(1) % 17));
        return;
      case 12:  // headers, ranges and tables change under the device
        services_.memory().WriteObject(kArena + input_.Take(2) % (kArenaSize - 8), input_.Take(8));
        return;
      case 13:
        model_->OnFunctionState({.bus_master = (what & 0x10) != 0, .msix_enabled = what > 127});
        return;
      case 14:
        Register();
        return;
      default:
        if (what == 0xff) {
          Require(driver_->Reset(), "a reset ends");
          Reinitialize();
        } else if (what == 0xef) {
          driver_->queue(queue).SetAvailableIdx(static_cast<uint16_t>(input_.Take(2)));
        }
        return;
    }
  }

  void Register() {
    const uint8_t size = uint8_t{1} << (input_.Take(1) % 4);
    const bool window = input_.Take(1) % 8 == 0;
    const uint8_t region = window ? kCapabilityRegionBase + 4 : 0;
    // Mostly the common configuration.
    uint64_t offset = window ? input_.Take(1) % 24 : input_.Take(1) % 72;
    if (!window && input_.Take(1) % 4 == 0) offset = input_.Take(2) % (kBarSize - 8);
    if (input_.Take(1) % 4 == 0) {
      model_->Read(region, offset, size);
    } else {
      model_->Write(region, offset, size, input_.Take(size));
    }
  }

  Descriptor AnyDescriptor() {
    Descriptor descriptor;
    const uint64_t choice = input_.Take(1);
    descriptor.address =
        choice % 8 == 0 ? kMemorySize + input_.Take(8) % (uint64_t{1} << 62) : AnyArenaAddress();
    descriptor.length = static_cast<uint32_t>(input_.Take(2) % 0x1000);
    descriptor.flags = static_cast<uint16_t>(choice / 8 % 8);
    descriptor.next = static_cast<uint16_t>(input_.Take(1) % 17);
    return descriptor;
  }

  // Such that 4 KiB from there are in the arena.
  GuestAddress AnyArenaAddress() { return kArena + input_.Take(2) % (kArenaSize - 0x1000); }

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
    if (input_.Take(1) % 4 == 1) {
      driver_->queue(queue).AddIndirect(buffers, AnyArenaAddress() & ~GuestAddress{15});
    } else {
      driver_->queue(queue).Add(buffers);
    }
  }

  FuzzInput input_;
  UniqueFd file_;
  FakeServices services_;
  std::unique_ptr<PciTransport> model_;
  std::unique_ptr<FakeDriver> driver_;
};

}  // namespace
}  // namespace bulkhead::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::devices::virtio;                               // NOLINT
  HostileDriver(bulkhead::FuzzInput(data, size)).Run();
  return 0;
}
