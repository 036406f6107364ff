// A driver that sends any packets, true ones among them, gives any buffers, and lies about its
// credit, while the host's side connects, sends, reads and closes: against the whole device and
// transport. Whatever happened, a reset ends, and the device works again.
#include <stdint.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/message_socket.h"
#include "base/testing/fuzz_input.h"
#include "base/unique_fd.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/hostile_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_vsock/vsock_device.h"
#include "devices/virtio_vsock/vsock_packet.h"
#include "proto/vsock_link.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kCid = 3;
constexpr uint16_t kQueueSize = 16;
constexpr uint64_t kArenaSize = 0x4000;
constexpr size_t kMaxHosts = 8;

class HostileVsockDriver : public HostileDriver {
 public:
  explicit HostileVsockDriver(FuzzInput input) : HostileDriver(input, kArenaSize) {
    auto sockets = CreateSocketPair(SOCK_SEQPACKET).value();
    link_ = std::move(sockets.first);
    services_.AddResource("host", std::move(sockets.second));
    model_ = std::make_unique<PciTransport>(VsockDevice::Create(kCid).value());
    Require(model_->Start(services_).ok(), "the device starts");
    Reinitialize();
  }

  void Run() {
    while (!input_.empty()) Step();
    Require(driver_->Reset(), "a reset ends");
    Reinitialize();
    hosts_.clear();
    Drain();
    // A connection comes about, and carries data.
    Send(Header(VsockOperation::kRequest, 1000, 1000, 0), 0);
    const std::vector<VsockRequest> requests = Drain();
    Require(requests.size() == 1, "the guest's request reaches the vmm");
    Answer({.kind = VsockAnswer::kConnected, .id = requests[0].id});
    driver_->queue(0).Add({{kArena, 0x1000, true}});
    Require(driver_->KickAndWait(0).has_value(), "it works after a reset");
    VsockHeader answer;
    services_.memory().ReadObject(kArena, answer);
    Require(answer.operation == static_cast<uint16_t>(VsockOperation::kResponse), "response");
    Send(Header(VsockOperation::kData, 1000, 1000, 100), 100);
    char bytes[200];
    Require(recv(hosts_.back().get(), bytes, sizeof(bytes), MSG_DONTWAIT) == 100, "data arrives");
    CheckUntouched();
  }

 private:
  void Reinitialize() override {
    driver_ = std::make_unique<FakeDriver>(*model_, services_);
    Require(driver_->Initialize(kFeatureEventIndex | kFeatureIndirectDescriptors, kQueueSize),
            "the device initializes");
  }

  void Step() {
    const uint8_t what = static_cast<uint8_t>(input_.Take(1));
    const uint16_t queue = what / 16 % 3;
    switch (what % 16) {
      case 0:
      case 1:
      case 2:
      case 3:
        SendAny();
        return;
      case 4:
      case 5:  // a buffer for the guest, of any size
        driver_->queue(queue).Add({{AnyAddress(), static_cast<uint32_t>(input_.Take(1)) % 64, true},
                                   {AnyAddress(), static_cast<uint32_t>(input_.Take(2)) % 0x1000,
                                    input_.Take(1) % 8 != 1}});
        driver_->Kick(queue);
        return;
      case 6:
        model_->OnDoorbell(queue);
        return;
      case 7:
        services_.RunWatches(0);
        return;
      case 8:
        for (uint16_t i = 0; i < 3; ++i) {
          while (driver_->queue(i).PopUsed().has_value()) {
          }
        }
        return;
      case 9:
        driver_->queue(queue).WriteDescriptor(
            what / 16,
            {input_.Take(1) % 8 == 0 ? input_.Take(8) : AnyAddress(),
             static_cast<uint32_t>(input_.Take(2)), static_cast<uint16_t>(input_.Take(1) % 8),
             static_cast<uint16_t>(input_.Take(1) % 17)});
        return;
      case 10:  // packets change under the device
        services_.memory().WriteObject(kArena + input_.Take(2) % (kArenaSize - 8), input_.Take(8));
        return;
      case 11:
        for (const VsockRequest& request : Drain()) {
          Answer({.kind = input_.Take(1) % 4 == 1 ? VsockAnswer::kRefused : VsockAnswer::kConnected,
                  .id = request.id});
        }
        return;
      case 12: {  // a client
        Answer({.kind = VsockAnswer::kAccepted});
        HostSends(what % 32 < 16 ? "CONNECT 5\nand data" : "CONNECT 99999999999\n");
        return;
      }
      case 13:
        HostSends(std::string(input_.Take(2) % 5000, 'h'));
        return;
      case 14:
        Host(static_cast<uint8_t>(input_.Take(1)));
        return;
      default:
        if (what == 0xff) {
          Require(driver_->Reset(), "a reset ends");
          Reinitialize();
        } else if (what == 0xef) {
          driver_->queue(queue).SetAvailableIdx(static_cast<uint16_t>(input_.Take(2)));
        } else {
          model_->OnFunctionState({.bus_master = what > 0x40, .msix_enabled = true});
        }
        return;
    }
  }

  static VsockHeader Header(VsockOperation operation, uint32_t guest_port, uint32_t host_port,
                            uint32_t length) {
    VsockHeader header = {.source_cid = kCid, .destination_cid = kHostCid};
    header.source_port = guest_port;
    header.destination_port = host_port;
    header.length = length;
    header.type = kVsockStream;
    header.operation = static_cast<uint16_t>(operation);
    header.buffer_bytes = 0x10000;
    return header;
  }

  void SendAny() {
    const uint8_t how = input_.Byte();
    // Few ports, so that packets meet connections: those of the guest's, and of clients.
    VsockHeader header = Header(static_cast<VsockOperation>(input_.Take(1) % 9), how % 4 + 4,
                                how / 4 % 4, static_cast<uint32_t>(input_.Take(2) % 0x1100));
    if (how / 16 % 4 == 0) header.destination_port = LastHostPort();
    if (how / 64 == 1) header.buffer_bytes = static_cast<uint32_t>(input_.Take(4));
    if (how / 64 == 2) header.forwarded_bytes = static_cast<uint32_t>(input_.Take(4));
    header.flags = how % 4;
    uint32_t real = header.length;
    if (how == 3) header.source_cid = input_.Take(8);
    if (how == 7) header.destination_cid = input_.Take(8);
    if (how == 11) header.type = static_cast<uint16_t>(input_.Take(2));
    if (how == 15) header.length = static_cast<uint32_t>(input_.Take(4));
    Send(header, real);
  }

  void Send(const VsockHeader& header, uint32_t length) {
    const GuestAddress at = AnyAddress();
    services_.memory().WriteObject(at, header);
    std::vector<Buffer> buffers = {{at, sizeof(header), false}};
    if (length != 0) buffers.push_back({AnyAddress(), length, false});
    driver_->queue(1).Add(buffers);
    driver_->Kick(1);
  }

  // The host's port in the packet that the device wrote last, perhaps.
  uint32_t LastHostPort() {
    uint32_t port = 0;
    services_.memory().ReadObject(kArena + 16, port);
    return port;
  }

  // 0x1100 bytes from there are in the arena or behind it, but not untouchable.
  GuestAddress AnyAddress() {
    return kArena + (input_.Take(1) % 4 == 0 ? 0 : input_.Take(2) % (kArenaSize - 0x1100));
  }

  std::vector<VsockRequest> Drain() {
    std::vector<VsockRequest> requests;
    VsockRequest request;
    while (recv(link_.get(), &request, sizeof(request), MSG_DONTWAIT) == sizeof(request)) {
      if (request.kind == VsockRequest::kConnect) requests.push_back(request);
    }
    return requests;
  }

  void Answer(const VsockAnswer& answer) {
    auto sockets = CreateSocketPair(SOCK_STREAM).value();
    const int fd = sockets.second.get();
    const absl::string_view bytes(reinterpret_cast<const char*>(&answer), sizeof(answer));
    SendSocketMessage(link_.get(), bytes,
                      answer.kind == VsockAnswer::kRefused ? absl::Span<const int>()
                                                           : absl::MakeConstSpan(&fd, 1))
        .IgnoreError();
    if (hosts_.size() == kMaxHosts) hosts_.erase(hosts_.begin());
    hosts_.push_back(std::move(sockets.first));
    services_.RunWatches(0);
  }

  void HostSends(const std::string& data) {
    if (hosts_.empty()) return;
    (void)!send(hosts_.back().get(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  void Host(uint8_t how) {
    if (hosts_.empty()) return;
    UniqueFd& host = hosts_[how / 4 % hosts_.size()];
    char bytes[4096];
    switch (how % 4) {
      case 0:
        (void)!recv(host.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
        return;
      case 1:
        shutdown(host.get(), SHUT_WR);
        return;
      case 2:
        std::swap(host, hosts_.back());
        return;
      default:
        host.reset();
    }
  }

  UniqueFd link_;
  std::vector<UniqueFd> hosts_;
};

}  // namespace
}  // namespace bulkhead::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::devices::virtio;                               // NOLINT
  HostileVsockDriver(bulkhead::FuzzInput(data, size)).Run();
  return 0;
}
