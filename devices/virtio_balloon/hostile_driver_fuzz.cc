// A driver that names any pages, in any chains, and reports any memory, while targets come: against
// the whole device and transport. Whatever happened, each page is kept or freed as a whole, a reset
// ends, and the device works again.
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/testing/fuzz_input.h"
#include "base/unique_fd.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/hostile_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_balloon/balloon_device.h"
#include "proto/balloon_link.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint16_t kQueueSize = 16;
constexpr uint64_t kArenaSize = 0x40000;  // up to 0xc0000
constexpr GuestAddress kKept = 0xd0000;   // named by chance only
constexpr uint64_t kKeptWords = 0x1000;
constexpr uint64_t kPattern = 0x6b6565702074686f;

class HostileBalloonDriver : public HostileDriver {
 public:
  explicit HostileBalloonDriver(FuzzInput input) : HostileDriver(input, kArenaSize) {
    int ends[2];
    Require(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe");
    services_.AddResource(kBalloonTargetResource, UniqueFd(ends[0]));
    to_device_.reset(ends[1]);
    for (uint64_t i = 0; i < kKeptWords; ++i) {
      services_.memory().WriteObject(kKept + 8 * i, kPattern + i);
    }
    model_ = std::make_unique<PciTransport>(std::make_unique<BalloonDevice>());
    Require(model_->Start(services_).ok(), "the device starts");
    Reinitialize();
  }

  void Run() {
    while (!input_.empty()) Step();
    Require(driver_->Reset(), "a reset ends");
    Reinitialize();
    // A page is given up.
    services_.memory().WriteObject(kArena + 0x3000, kPattern);
    services_.memory().WriteObject(kArena, static_cast<uint32_t>((kArena + 0x3000) / kBalloonPage));
    driver_->queue(BalloonDevice::kInflate).Add({{kArena, sizeof(uint32_t), false}});
    Require(driver_->KickAndWait(BalloonDevice::kInflate).has_value(), "it works after a reset");
    uint64_t word = kPattern;
    services_.memory().ReadObject(kArena + 0x3000, word);
    Require(word == 0, "the page is freed");
    bool is_freed = false;
    for (uint64_t i = 0; i < kKeptWords; ++i) {
      services_.memory().ReadObject(kKept + 8 * i, word);
      if (8 * i % kBalloonPage == 0) is_freed = word == 0;
      Require(word == (is_freed ? 0 : kPattern + i), "a page is kept or freed, as a whole");
    }
    CheckUntouched();
  }

 private:
  void Reinitialize() override {
    driver_ = std::make_unique<FakeDriver>(*model_, services_);
    Require(driver_->Initialize(kBalloonDeflateOnOom | kBalloonReporting | kFeatureEventIndex |
                                    kFeatureIndirectDescriptors,
                                kQueueSize),
            "the device initializes");
  }

  void Step() {
    const uint8_t what = static_cast<uint8_t>(input_.Take(1));
    const auto queue = static_cast<uint16_t>(what / 16 % BalloonDevice::kQueues);
    switch (what % 16) {
      case 0:
      case 1:
        AddPages(queue % 2);
        return;
      case 2:
      case 3:
        AddReport(queue);
        return;
      case 4: {
        const BalloonTarget target = input_.Take(8);
        (void)!write(to_device_.get(), &target, input_.Take(1) % 8 == 1 ? 5 : sizeof(target));
        return;
      }
      default:
        Meddle(what, queue);
        return;
    }
  }

  // Numbers of pages of the arena, of the driver's rings, and of what is no RAM.
  void AddPages(uint16_t queue) {
    const GuestAddress list = AnyArenaAddress();
    const uint64_t count = input_.Take(1) % 32;
    for (uint64_t i = 0; i < count; ++i) {
      const uint8_t kind = static_cast<uint8_t>(input_.Take(1));
      uint32_t number =
          static_cast<uint32_t>((kArena + kind * kBalloonPage % kArenaSize) / kBalloonPage);
      if (kind % 16 == 1) number = kind / 16;  // from 0 on: the rings
      if (kind % 16 == 2) number = static_cast<uint32_t>(kMemorySize / kBalloonPage + kind);
      if (kind % 16 == 3) number = static_cast<uint32_t>(input_.Take(4)) | 0x8000'0000;
      services_.memory().WriteObject(list + 4 * i, number);
    }
    const uint32_t bytes = static_cast<uint32_t>(4 * count + input_.Take(1) % 4);
    AddChain(queue, {{list, bytes / 2, false}, {list + bytes / 2, bytes - bytes / 2, false}});
    driver_->Kick(queue);
  }

  void AddReport(uint16_t queue) {
    std::vector<Buffer> buffers;
    for (uint64_t i = 1 + input_.Take(1) % 4; i > 0; --i) {
      buffers.push_back({AnyArenaAddress() & (input_.Take(1) % 2 == 0 ? ~uint64_t{4095} : ~0ull),
                         static_cast<uint32_t>(input_.Take(2)) % (kMaxBuffer + 1), true});
    }
    AddChain(queue, buffers);
    driver_->Kick(queue);
  }

  UniqueFd to_device_;
};

}  // namespace
}  // namespace bulkhead::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::devices::virtio;                               // NOLINT
  HostileBalloonDriver(bulkhead::FuzzInput(data, size)).Run();
  return 0;
}
