#ifndef BULKHEAD_DEVICES_VHOST_USER_TESTING_BACK_END_DEVICE_FIXTURE_H_
#define BULKHEAD_DEVICES_VHOST_USER_TESTING_BACK_END_DEVICE_FIXTURE_H_

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "devices/vhost_user/device_kind.h"
#include "devices/vhost_user/lending_device.h"
#include "devices/vhost_user/relaying_device.h"
#include "devices/vhost_user/testing/test_back_end.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"
#include "proto/back_end_peer.h"
#include "proto/back_end_socket.h"

namespace bulkhead::devices::vhost_user {

inline constexpr uint64_t kPlain = kProtocolReplyAck | kProtocolConfig;
inline constexpr uint64_t kTracking = kPlain | kProtocolInFlight;
inline constexpr uint64_t kRings = virtio::kFeatureEventIndex | virtio::kFeatureIndirectDescriptors;

// A device, its driver, and back ends, each on a thread, which die when the test says so.
class LendingDeviceTest : public testing::Test {
 protected:
  LendingDeviceTest() : services({{0, 4 << 20}}) {
    services.AddResource("back_end", std::move(connector.second));
  }
  ~LendingDeviceTest() override {
    driver.reset();
    device.reset();
  }

  virtual std::unique_ptr<virtio::VirtioDevice> Create() {
    return std::make_unique<LendingDevice>(*MakeDeviceKind({.type = "blk", .queue_size = 16}));
  }

  // The next connection leads to a new back end, of the process `pid`, of which `process` is a
  // pidfd, if there is one.
  void Offer(TestBackEnd::Options options, uint64_t pid, int process = -1) {
    std::pair<UniqueFd, UniqueFd> sockets = *CreateSocketPair(SOCK_STREAM);
    if (process >= 0) {
      const PeerAnswer who = {.kind = PeerAnswerKind::kListener,
                              .error = 0,
                              .peer_pid = pid,
                              .peer_inode = 1,
                              .reserved = 0};
      ASSERT_TRUE(SendSocketMessage(connector.first.get(), Bytes(who), {process}).ok());
    }
    const ConnectAnswer answer = {.error = 0, .reserved = 0, .peer_pid = pid, .peer_inode = 1};
    ASSERT_TRUE(
        SendSocketMessage(connector.first.get(), Bytes(answer), {sockets.first.get()}).ok());
    back_end = std::make_unique<TestBackEnd>(std::move(options), std::move(sockets.second));
  }
  void Fail(int error) {
    const ConnectAnswer answer = {.error = error, .reserved = 0, .peer_pid = 0, .peer_inode = 0};
    ASSERT_TRUE(SendSocketMessage(connector.first.get(), Bytes(answer), {}).ok());
  }
  // Answers the question for the process that had the connection before: with its pidfd, or -1, if
  // it is dead.
  void AnswerPeerRequest(uint64_t pid, int process) {
    PeerRequest request = {};
    do {
      absl::StatusOr<SocketMessage> message =
          ReceiveSocketMessage(connector.first.get(), 64, absl::Seconds(20));
      ASSERT_TRUE(message.ok()) << message.status();
      if (message->bytes.size() != sizeof(request)) continue;
      memcpy(&request, message->bytes.data(), sizeof(request));
    } while (request.kind != kPeerRequest);
    EXPECT_EQ(request.peer_pid, pid);
    const PeerAnswer answer = {.kind = PeerAnswerKind::kPeer,
                               .error = process >= 0 ? 0 : ESRCH,
                               .peer_pid = request.peer_pid,
                               .peer_inode = request.peer_inode,
                               .reserved = 0};
    std::vector<int> descriptors;
    if (process >= 0) descriptors.push_back(process);
    ASSERT_TRUE(SendSocketMessage(connector.first.get(), Bytes(answer), descriptors).ok());
  }
  template <typename T>
  static std::string Bytes(const T& answer) {
    return std::string(reinterpret_cast<const char*>(&answer), sizeof(answer));
  }
  void Start(uint64_t protocol_features, bool holds = false, int process = -1) {
    Offer({.protocol_features = protocol_features, .holds = holds}, 1, process);
    StartDevice();
  }
  // Waits for the back end.
  void StartDevice() {
    device = std::make_unique<virtio::RestartableDevice>(
        services, [this] { return std::make_unique<virtio::PciTransport>(Create()); });
    driver = std::make_unique<virtio::FakeDriver>(*device, services);
    ASSERT_TRUE(driver->Initialize(kRings));
  }
  // The device closes the connection to a back end of the process `pid`, which has guest memory.
  void LoseLiar(uint64_t pid, int process) {
    const double losses = Metric("back_end_losses_total");
    Offer({.protocol_features = kTracking,
           .lie =
               [](MessageType type) {
                 return type == MessageType::kSetVringEnable
                            ? std::optional<std::string>("nonsense, not a message")
                            : std::nullopt;
               }},
          pid, process);
    ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") > losses; }));
  }

  // Runs the device until the condition holds, which a back end's thread may bring about.
  bool Until(const std::function<bool()>& condition) {
    for (int i = 0; i < 20'000 && !condition(); ++i) services.RunWatches(1);
    return condition();
  }
  // One more request, with a status byte that is not 0 yet.
  void AddRequest() {
    const GuestAddress buffer = driver->Allocate(64);
    services.memory().WriteObject<uint8_t>(buffer + 32, 0xff);
    ASSERT_TRUE(driver->queue(0).Add({{buffer, 16, false}, {buffer + 32, 1, true}}).has_value());
    driver->Kick(0);
  }
  bool IsDone(int requests) {
    return Until([&] {
      while (driver->queue(0).PopUsed().has_value()) ++done;
      return done >= requests;
    });
  }
  bool IsTaken(int requests) {
    return Until([&] { return back_end->taken() + back_end->taken_again() >= requests; });
  }
  // It dies, and the device knows.
  void KillBackEnd() {
    back_end->Kill();
    ASSERT_TRUE(Until([&] { return Metric("back_end_connected") == 0; }));
  }
  bool NeedsReset() { return (driver->status() & virtio::kStatusNeedsReset) != 0; }
  double Metric(const std::string& name) {
    v1::DeviceMetrics metrics;
    device->AppendMetrics(metrics);
    for (const v1::DeviceMetric& metric : metrics.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    return -1;
  }

  std::pair<UniqueFd, UniqueFd> connector = *CreateSocketPair(SOCK_SEQPACKET);
  virtio::DurableServices services;
  std::unique_ptr<TestBackEnd> back_end;
  std::unique_ptr<virtio::RestartableDevice> device;
  std::unique_ptr<virtio::FakeDriver> driver;
  int done = 0;
};

// The back ends keep no record of requests.
class RelayingDeviceTest : public LendingDeviceTest {
 protected:
  std::unique_ptr<virtio::VirtioDevice> Create() override {
    auto relaying =
        std::make_unique<RelayingDevice>(*MakeDeviceKind({.type = "blk", .queue_size = 16}));
    relaying->set_reset_limit(reset_limit);
    return relaying;
  }
  // Until results are polled for, too.
  bool IsServed(int requests) {
    return Until([&] {
      if (device->HasWork()) device->DoWork();
      while (driver->queue(0).PopUsed().has_value()) ++done;
      return done >= requests;
    });
  }

  absl::Duration reset_limit = absl::Seconds(30);
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_TESTING_BACK_END_DEVICE_FIXTURE_H_
