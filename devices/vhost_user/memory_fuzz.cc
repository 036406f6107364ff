// Fuzzes what both devices make of a back end that writes where it can: into guest memory and into
// the file of the device's durable memory, which holds the record of the queues, the requests in
// flight, and the rings of a relay. An input is what it writes and answers, and what driver and
// device do meanwhile. Afterwards the device must work with an honest back end.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/message_socket.h"
#include "base/testing/fuzz_input.h"
#include "base/unique_fd.h"
#include "devices/vhost_user/device_kind.h"
#include "devices/vhost_user/device_record.h"
#include "devices/vhost_user/lending_device.h"
#include "devices/vhost_user/relaying_device.h"
#include "devices/vhost_user/testing/test_back_end.h"
#include "devices/virtio/in_flight_log.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "proto/back_end_socket.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr uint64_t kFeatures = virtio::kFeatureVersion1 | kFeatureProtocolFeatures |
                               virtio::kFeatureEventIndex | virtio::kFeatureIndirectDescriptors;
constexpr uint64_t kProtocol = kProtocolReplyAck | kProtocolConfig | kProtocolInFlight;
constexpr uint32_t kConfigBytes = 60;
constexpr uint16_t kQueueSize = 16;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

class World {
 public:
  World(FuzzInput& input, bool relays) : input_(input), relays_(relays), services_({{0, 4 << 20}}) {
    services_.AddResource("back_end", std::move(connector_.second));
    services_.SetDurableMemory(virtio::PciTransport(Create()).Describe().durable_memory_bytes());
    WriteRecord();  // as of a predecessor: the device does not wait for a back end
    device_ = std::make_unique<virtio::RestartableDevice>(
        services_, [this] { return std::make_unique<virtio::PciTransport>(Create()); });
    driver_ = std::make_unique<virtio::FakeDriver>(*device_, services_);
    Initialize();
  }
  ~World() {
    driver_.reset();
    device_.reset();
  }

  void Step() {
    switch (input_.Byte() % 16) {
      case 0:
      case 1:
      case 2:
        AddRequest();
        break;
      case 3:
      case 4:
        WriteSomewhere();
        break;
      case 5:
        // The index up to which a relay's requests are completed.
        if (relays_) Scribble(rings_offset() + 4096 * 2 + virtio::kUsedIdx);
        break;
      case 6:
        WriteUsedRing();
        break;
      case 7:
        Interrupt();
        break;
      case 8:
        Disconnect();
        break;
      case 9:
        if (input_.Byte() % 4 == 0) Restart();
        break;
      case 10:
        driver_->Set(virtio::kDeviceStatus, 1, 0);
        break;
      case 11:
        if (driver_->status() == 0) Initialize();
        break;
      case 12:
        device_->OnFunctionState({.bus_master = input_.Byte() % 4 != 0, .msix_enabled = true});
        break;
      default:
        Answer();
    }
    if (device_->HasWork()) device_->DoWork();
    services_.RunWatches(0);
  }

  // With an honest back end, after a reset.
  void MustWork() {
    device_->OnFunctionState({.bus_master = true, .msix_enabled = true});
    Disconnect();
    services_.RunWatches(0);
    driver_->Set(virtio::kDeviceStatus, 1, 0);
    std::pair<UniqueFd, UniqueFd> sockets = CreateSocketPair(SOCK_STREAM).value();
    Offer(sockets.first.get());
    TestBackEnd back_end({.config = std::vector<uint8_t>(kConfigBytes, 7)},
                         std::move(sockets.second));
    Require(Until([&] { return driver_->status() == 0; }), "the reset ends");
    Initialize();
    AddRequest();
    Require(Until([&] { return driver_->queue(0).used_idx() == 1; }), "it serves");
  }

 private:
  std::unique_ptr<virtio::VirtioDevice> Create() const {
    DeviceKind kind = MakeDeviceKind({.type = "blk", .queue_size = kQueueSize}).value();
    if (!relays_) return std::make_unique<LendingDevice>(std::move(kind));
    return std::make_unique<RelayingDevice>(std::move(kind));
  }

  size_t record_offset() const { return relays_ ? virtio::InFlightLog::SizeBytes(kQueueSize) : 0; }
  size_t rings_offset() const { return 2 * kRecordBytes; }  // the next page

  void WriteRecord() {
    auto& record =
        *reinterpret_cast<DeviceRecord*>(services_.durable_memory().data() + record_offset());
    record.magic = kRecordMagic;
    record.features = kFeatures;
    record.config_bytes = kConfigBytes;
  }

  void Initialize() {
    Require(driver_->Initialize(virtio::kFeatureEventIndex | virtio::kFeatureIndirectDescriptors));
    used_ring_is_good_ = true;
  }

  void AddRequest() {
    // What the driver finds in the used ring of a liar is its own affair.
    while (used_ring_is_good_ && relays_ && driver_->queue(0).PopUsed().has_value()) {
    }
    const GuestAddress buffer = driver_->Allocate(64);
    if (driver_->queue(0).Add({{buffer, 16, false}, {buffer + 32, 1, true}}).has_value()) {
      driver_->Kick(0);
    }
  }

  void Scribble(size_t offset) {
    const absl::Span<uint8_t> all = services_.durable_memory();
    const int bytes = 1 + input_.Byte() % 8;
    if (offset + bytes > all.size()) return;
    uint64_t value = 0;
    memcpy(&value, &all[offset], static_cast<size_t>(bytes));
    value = input_.Near(value);
    memcpy(&all[offset], &value, static_cast<size_t>(bytes));
  }

  void WriteSomewhere() {
    const size_t begins[] = {0,
                             record_offset(),
                             record_offset() + offsetof(DeviceRecord, queues),
                             record_offset() + kRecordBytes,
                             rings_offset() + 4096,
                             rings_offset() + 2 * 4096};
    Scribble(begins[input_.Byte() % std::size(begins)] + input_.Take(1));
  }

  void WriteUsedRing() {
    if (relays_) return;
    const GuestAddress used = driver_->queue(0).setup().device_area;
    services_.memory().WriteObject(used + 2 * (input_.Byte() % 16),
                                   static_cast<uint16_t>(input_.Near(0)));
    used_ring_is_good_ = false;
  }

  void Interrupt() {
    const uint64_t once = 1;
    if (call_.ok()) (void)!write(call_.get(), &once, sizeof(once));
  }

  void Offer(int socket) {
    const ConnectAnswer answer = {.error = 0, .reserved = 0, .peer_pid = 1, .peer_inode = 1};
    Require(SendSocketMessage(connector_.first.get(), Bytes(answer), {socket}).ok());
    // What the device asks for is not looked at.
    while (ReceiveSocketMessage(connector_.first.get(), 64, absl::ZeroDuration()).ok()) {
    }
  }

  void Disconnect() {
    back_end_.reset();
    services_.RunWatches(0);
  }

  // The process dies. A record that the back end has made unreadable is as none, and the device
  // would wait for a back end then.
  void Restart() {
    WriteRecord();
    device_->Restart();
  }

  // Answers one message, or makes a connection.
  void Answer() {
    if (!back_end_.ok()) {
      std::pair<UniqueFd, UniqueFd> sockets = CreateSocketPair(SOCK_STREAM | SOCK_NONBLOCK).value();
      Offer(sockets.first.get());
      back_end_ = std::move(sockets.second);
      return;
    }
    for (int i = 0; i < 16; ++i) {
      // Header and payload of a message were sent at once.
      MessageHeader header;
      if (recv(back_end_.get(), &header, sizeof(header), MSG_PEEK) != sizeof(header)) return;
      absl::StatusOr<SocketMessage> message =
          ReceiveSocketMessage(back_end_.get(), sizeof(header) + header.size, absl::ZeroDuration());
      if (!message.ok() || message->bytes.size() != sizeof(header) + header.size) {
        return Disconnect();
      }
      const auto type = static_cast<MessageType>(header.type);
      if (type == MessageType::kSetVringCall && !message->descriptors.empty()) {
        call_ = std::move(message->descriptors[0]);
      }
      const std::string payload = Reply(type, header.flags);
      if (payload.empty()) continue;
      header = {.type = header.type,
                .flags = kVersion | kIsReply,
                .size = static_cast<uint32_t>(payload.size())};
      const std::string bytes = Bytes(header) + payload;
      if (send(back_end_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return Disconnect();
      services_.RunWatches(0);
    }
  }

  // One in sixty-four is a lie, of the right size.
  std::string Reply(MessageType type, uint32_t flags) {
    const bool lies = input_.Byte() % 64 == 63;
    switch (type) {
      case MessageType::kGetFeatures:
        return Bytes(lies ? input_.Near(kFeatures) : kFeatures);
      case MessageType::kGetProtocolFeatures:
        return Bytes(lies ? input_.Take(3) : kProtocol);
      case MessageType::kGetConfig: {
        ConfigHeader header = {.offset = 0, .size = kConfigBytes, .flags = 0};
        if (lies) header.size = static_cast<uint32_t>(input_.Near(header.size));
        return Bytes(header) + std::string(kConfigBytes, static_cast<char>(input_.Byte()));
      }
      case MessageType::kGetVringBase: {
        VringState state = {.index = 0, .value = static_cast<uint32_t>(input_.Near(0))};
        if (lies) state.index = static_cast<uint32_t>(input_.Near(0));
        return Bytes(state);
      }
      case MessageType::kGetQueueNum:
      case MessageType::kGetMaxMemSlots:
        return Bytes(lies ? input_.Near(8) : uint64_t{8});
      default:
        // Of the table of memory, the area of requests in flight, and so on.
        if ((flags & kNeedReply) == 0) return {};
        return Bytes(lies ? input_.Near(0) : uint64_t{0});
    }
  }

  bool Until(const std::function<bool()>& condition) {
    for (int i = 0; i < 20'000 && !condition(); ++i) {
      if (device_->HasWork()) device_->DoWork();
      services_.RunWatches(1);
    }
    return condition();
  }

  FuzzInput& input_;
  const bool relays_;
  std::pair<UniqueFd, UniqueFd> connector_ = CreateSocketPair(SOCK_SEQPACKET).value();
  virtio::DurableServices services_;
  UniqueFd back_end_;
  UniqueFd call_;
  std::unique_ptr<virtio::RestartableDevice> device_;
  std::unique_ptr<virtio::FakeDriver> driver_;
  bool used_ring_is_good_ = true;
};

}  // namespace
}  // namespace bulkhead::devices::vhost_user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  bulkhead::FuzzInput input(data, size);
  bulkhead::devices::vhost_user::World world(input, /*relays=*/input.Byte() % 2 == 0);
  for (int step = 0; step < 300 && !input.empty(); ++step) world.Step();
  world.MustWork();
  return 0;
}
