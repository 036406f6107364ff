// A driver that does what a good one does, in any order, with mostly valid chains, and with what no
// driver may do strewn in: against the whole network device, its transport included. Whatever
// happened, a reset ends and the device works again, and what it sent had a header that the host's
// kernel may see.
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
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
#include "devices/virtio_net/net_device.h"
#include "devices/virtio_net/net_header.h"
#include "devices/virtio_net/net_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint16_t kQueueSize = 16;
constexpr uint32_t kPairs = 2;
constexpr uint16_t kQueues = 2 * kPairs + 1;
constexpr uint64_t kArenaSize = 0x8000;

class HostileNetDriver : public HostileDriver {
 public:
  explicit HostileNetDriver(FuzzInput input) : HostileDriver(input, kArenaSize) {
    for (uint32_t i = 0; i < kPairs; ++i) {
      int ends[2];
      Require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0,
              "sockets");
      services_.AddResource(i == 0 ? "tap" : "tap.1", UniqueFd(ends[0]));
      network_[i].reset(ends[1]);
    }
    features_ = input_.Take(1) % 4 == 0 ? input_.Take(8) : ~uint64_t{0};
    auto net =
        NetDevice::Create(
            {.mac = {2, 0, 0, 0, 0, 1}, .pairs = kPairs, .queue_size = kQueueSize, .mtu = 1500})
            .value();
    net->set_wait_ticks(1);
    net->set_offload_setter([](int, uint32_t bits) { return bits <= 7; });
    model_ = std::make_unique<PciTransport>(std::move(net));
    Require(model_->Start(services_).ok(), "the device starts");
    Reinitialize();
  }

  void Run() {
    while (!input_.empty()) Step();
    Require(driver_->Reset(), "a reset ends");
    CheckNetwork();
    features_ = ~uint64_t{0};
    Reinitialize();
    AddBuffers(0, 4);
    driver_->Kick(0);
    FrameToGuest(0, 60);
    Require(driver_->KickAndWait(0).has_value(), "it receives after a reset");
    CheckUntouched();
  }

 private:
  void Reinitialize() override {
    driver_ = std::make_unique<FakeDriver>(*model_, services_);
    Require(driver_->Initialize(features_), "the device initializes");
  }

  void Step() {
    const uint8_t what = static_cast<uint8_t>(input_.Take(1));
    const uint16_t queue = what / 16 % kQueues;
    switch (what % 16) {
      case 0:
      case 1:
        AddFrame(queue);
        return;
      case 2:
        AddBuffers(queue, 1 + input_.Take(1) % 4);
        return;
      case 3:
        AddCommand(queue);
        return;
      case 4:
        FrameToGuest(what / 16 % kPairs, input_.Take(2) % 2000);
        return;
      default:
        Meddle(what, queue);
        if (what % 16 == 8) CheckNetwork();
        return;
    }
  }

  // What was sent had a header that may be.
  void CheckNetwork() {
    uint8_t bytes[sizeof(NetHeader) + kMaxFrame + 1];
    for (const UniqueFd& end : network_) {
      ssize_t size;
      while ((size = read(end.get(), bytes, sizeof(bytes))) > 0) {
        Require(size >= static_cast<ssize_t>(sizeof(NetHeader)), "a header");
        NetHeader header;
        memcpy(&header, bytes, sizeof(header));
        const uint64_t frame = static_cast<uint64_t>(size) - sizeof(header);
        Require(CheckHeader(header, frame, ~uint64_t{0}) == HeaderFault::kNone,
                "a malformed header has reached the TAP");
        Require((header.flags & ~kNeedsChecksum) == 0 && header.buffers == 0, "a clean header");
      }
    }
  }

  void FrameToGuest(uint32_t tap, size_t size) {
    std::vector<uint8_t> frame(sizeof(NetHeader) + size, 0xff);
    const NetHeader header = {};
    memcpy(frame.data(), &header, sizeof(header));
    (void)!write(network_[tap].get(), frame.data(), frame.size());  // full: not now
  }

  // A chain of `bytes` from `start` on, cut in two at any place, and perhaps in an indirect table.
  void Add(uint16_t queue, GuestAddress start, uint32_t bytes, std::vector<Buffer> more = {}) {
    const uint32_t cut = bytes == 0 ? 0 : static_cast<uint32_t>(input_.Take(1)) % bytes;
    std::vector<Buffer> buffers = {{start, cut, false}, {start + cut, bytes - cut, false}};
    buffers.insert(buffers.end(), more.begin(), more.end());
    AddChain(queue, buffers);
  }

  void AddFrame(uint16_t queue) {
    NetHeader header = {};
    const uint64_t kind = input_.Take(1);
    if (kind % 2 != 0) header.flags = static_cast<uint8_t>(kind / 2 % 8);
    if (kind % 8 > 3) {
      constexpr uint8_t kSegments[] = {0, 1, 3, 4, 5, 0x81};
      header.segmentation = kSegments[input_.Take(1) % 6];
      header.header_length = static_cast<uint16_t>(input_.Take(1) * 16);
      header.segment_size = static_cast<uint16_t>(input_.Take(1) * 8);
    }
    header.checksum_start = static_cast<uint16_t>(kind % 3 == 0 ? input_.Take(2) : 34);
    header.checksum_offset = static_cast<uint16_t>(kind % 5 == 0 ? input_.Take(2) : 16);
    const GuestAddress start = AnyArenaAddress();
    services_.memory().WriteObject(start, header);
    Add(queue, start, static_cast<uint32_t>(input_.Take(2) % kMaxBuffer));
  }

  void AddBuffers(uint16_t queue, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      const auto size = static_cast<uint32_t>(input_.empty() ? 1526 : input_.Take(2) % kMaxBuffer);
      driver_->queue(queue).Add({{AnyArenaAddress(), size, true}});
    }
  }

  void AddCommand(uint16_t queue) {
    const GuestAddress start = AnyArenaAddress();
    const uint64_t choice = input_.Take(1);
    const uint8_t command[] = {static_cast<uint8_t>(choice % 7),
                               static_cast<uint8_t>(choice / 8 % 3)};
    services_.memory().Write(start, command);
    services_.memory().WriteObject(start + sizeof(command), input_.Take(8));
    constexpr uint32_t kSizes[] = {2, 3, 4, 8, 10, 16, 2000};
    std::vector<Buffer> answer;
    if (input_.Take(1) % 32 != 1) answer.push_back({AnyArenaAddress(), 1, true});
    Add(queue, start, kSizes[input_.Take(1) % 7], std::move(answer));
  }

  UniqueFd network_[kPairs];
  uint64_t features_ = 0;
};

}  // namespace
}  // namespace bulkhead::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::devices::virtio;                               // NOLINT
  HostileNetDriver(bulkhead::FuzzInput(data, size)).Run();
  return 0;
}
