#ifndef BULKHEAD_DEVICES_VIRTIO_NET_TESTING_TEST_NET_H_
#define BULKHEAD_DEVICES_VIRTIO_NET_TESTING_TEST_NET_H_

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_net/net_device.h"
#include "devices/virtio_net/net_layout.h"
#include "gtest/gtest.h"
#include "proto/net_link.h"

namespace bulkhead::devices::virtio {

inline constexpr uint64_t kAll = ~uint64_t{0};
inline constexpr MacAddress kMac = {0x52, 0x54, 0, 0, 0, 1};
inline constexpr uint32_t kBufferBytes = 256;
inline constexpr uint16_t kReceive = 0;
inline constexpr uint16_t kSend = 1;
inline constexpr uint16_t kControl = 2;

// The whole device, its transport included, over sockets that keep frames apart as a TAP does.
class NetDeviceTest : public testing::Test {
 protected:
  explicit NetDeviceTest(NetOptions options = {.mac = kMac, .queue_size = 16, .mtu = 1500}) {
    for (uint32_t i = 0; i < options.pairs; ++i) {
      int ends[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
      services.AddResource(i == 0 ? "tap" : "tap." + std::to_string(i), UniqueFd(ends[0]));
      network.emplace_back(ends[1]);
    }
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
    services.AddResource(kLinkResource, UniqueFd(ends[0]));
    operator_end.reset(ends[1]);
    model = std::make_unique<RestartableDevice>(services, [this, options] {
      auto net = NetDevice::Create(options).value();
      net->set_offload_setter([this](int, uint32_t bits) {
        offloads.push_back(bits);
        return on_offloads == nullptr || on_offloads(bits);
      });
      net->set_wait_ticks(wait_ticks);
      device = net.get();
      return std::make_unique<PciTransport>(std::move(net));
    });
    driver = std::make_unique<FakeDriver>(*model, services);
  }

  // A frame of `size` bytes to `to`, behind a header.
  static std::string Frame(size_t size, const NetHeader& header = {}, const MacAddress& to = kMac) {
    std::string frame(sizeof(header) + size, '\0');
    memcpy(frame.data(), &header, sizeof(header));
    for (size_t i = sizeof(header); i < frame.size(); ++i) frame[i] = static_cast<char>(i * 7);
    memcpy(frame.data() + sizeof(header), to.data(), to.size());
    frame[sizeof(header) + 12] = 0x08;
    frame[sizeof(header) + 13] = 0;
    return frame;
  }
  GuestAddress Place(const std::string& bytes) {
    const GuestAddress address = driver->Allocate(bytes.size());
    EXPECT_TRUE(services.memory().Write(
        address,
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size())));
    return address;
  }
  std::string ReadBytes(GuestAddress address, size_t size) {
    std::string bytes(size, '\0');
    EXPECT_TRUE(services.memory().Read(
        address, absl::MakeSpan(reinterpret_cast<uint8_t*>(bytes.data()), size)));
    return bytes;
  }
  // What the network got next; "": nothing.
  std::string FromGuest(int tap = 0) {
    std::string bytes(70'000, '\0');
    const ssize_t size = read(network[tap].get(), bytes.data(), bytes.size());
    bytes.resize(size < 0 ? 0 : size);
    return bytes;
  }
  void ToGuest(const std::string& frame, int tap = 0) {
    EXPECT_EQ(write(network[tap].get(), frame.data(), frame.size()),
              static_cast<ssize_t>(frame.size()));
  }
  // Since the last call.
  int ConfigInterrupts() {
    int count = 0;
    for (const uint32_t vector : services.TakeMsixSignals()) count += vector == 0;
    return count;
  }
  void SetLink(char state) {
    EXPECT_EQ(write(operator_end.get(), &state, 1), 1);
    while (services.RunWatches(0) != 0) {
    }
  }
  void Send(const std::string& bytes) {
    driver->queue(kSend).Add(
        {{Place(bytes), static_cast<uint32_t>(bytes.size()), /*writable=*/false}});
    EXPECT_TRUE(driver->KickAndWait(kSend).has_value());
  }
  std::vector<GuestAddress> AddBuffers(int count, uint32_t size = kBufferBytes,
                                       uint16_t queue = kReceive) {
    std::vector<GuestAddress> buffers;
    for (int i = 0; i < count; ++i) {
      buffers.push_back(driver->Allocate(size));
      driver->queue(queue).Add({{buffers.back(), size, true}});
    }
    driver->Kick(queue);
    return buffers;
  }
  std::vector<UsedElement> Used(uint16_t queue = kReceive) {
    std::vector<UsedElement> used;
    while (services.RunWatches(0) != 0) {
    }
    while (const auto element = driver->queue(queue).PopUsed()) used.push_back(*element);
    return used;
  }
  uint8_t Command(std::vector<uint8_t> bytes) {
    const GuestAddress answer = Place("\xee");
    driver->queue(kControl).Add(
        {{Place({bytes.begin(), bytes.end()}), static_cast<uint32_t>(bytes.size()), false},
         {answer, 1, true}});
    EXPECT_TRUE(driver->KickAndWait(kControl).has_value());
    return static_cast<uint8_t>(ReadBytes(answer, 1)[0]);
  }
  double Metric(const std::string& name) {
    v1::DeviceMetrics metrics;
    model->AppendMetrics(metrics);
    for (const v1::DeviceMetric& metric : metrics.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    ADD_FAILURE() << name;
    return -1;
  }
  uint16_t Status() { return static_cast<uint16_t>(driver->ReadConfig(6, 2)); }

  DurableServices services{{{0, 4 << 20}}};
  std::vector<UniqueFd> network;
  UniqueFd operator_end;  // of the resource "link"
  std::vector<uint32_t> offloads;
  std::function<bool(uint32_t)> on_offloads;
  int wait_ticks = 0;  // of the next process
  NetDevice* device = nullptr;
  std::unique_ptr<RestartableDevice> model;
  std::unique_ptr<FakeDriver> driver;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_NET_TESTING_TEST_NET_H_
