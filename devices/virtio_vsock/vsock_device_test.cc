// The socket device between a driver and the vmm's end of its link, with real sockets.
#include "devices/virtio_vsock/vsock_device.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_vsock/vsock_packet.h"
#include "gtest/gtest.h"
#include "proto/vsock_link.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kCid = 7;
constexpr uint32_t kGuestPort = 1234;
constexpr uint32_t kHostPort = 99;
constexpr uint32_t kAll = VsockConnection::kBufferBytes;
constexpr uint32_t kBufferSize = 4096;

struct Packet {
  VsockHeader header;
  std::string data;
  VsockOperation operation() const { return static_cast<VsockOperation>(header.operation); }
};

class VsockDeviceTest : public testing::Test {
 protected:
  VsockDeviceTest() : services({{0, 8 << 20}}) { StartProcess(); }

  // A new process of the device, and the driver's first steps if there was none before.
  void StartProcess(const std::vector<uint8_t>* state = nullptr) {
    auto sockets = CreateSocketPair(SOCK_SEQPACKET).value();
    link = std::move(sockets.first);
    services.AddResource("host", std::move(sockets.second));
    model.reset();
    model = std::make_unique<PciTransport>(VsockDevice::Create(kCid).value());
    if (services.durable_memory().empty()) {
      services.SetDurableMemory(model->Describe().durable_memory_bytes());
    }
    ASSERT_TRUE(model->Start(services).ok());
    granted = 0;
    services.set_sleeper(model.get());
    if (state == nullptr) {
      driver = std::make_unique<FakeDriver>(*model, services);
      ASSERT_TRUE(driver->Initialize(kFeatureEventIndex));
      return;
    }
    model->SetServing(false);
    ASSERT_TRUE(model->Restore(*state).ok());
    model->OnFunctionState({.bus_master = true, .msix_enabled = true});
    model->SetServing(true);
    for (uint32_t i = 0; i < 3; ++i) model->OnDoorbell(i);
  }

  std::vector<uint8_t> Save() {
    std::vector<uint8_t> state(model->Describe().saved_state_bytes());
    state.resize(model->Save(absl::MakeSpan(state)));
    return state;
  }

  // ---- The guest

  void Send(VsockOperation operation, absl::string_view data = "", uint32_t flags = 0,
            uint32_t guest_port = kGuestPort, uint32_t host_port = kHostPort) {
    VsockHeader header = {.source_cid = kCid, .destination_cid = kHostCid};
    header.source_port = guest_port;
    header.destination_port = host_port;
    header.length = static_cast<uint32_t>(data.size());
    header.type = kVsockStream;
    header.operation = static_cast<uint16_t>(operation);
    header.flags = flags;
    header.buffer_bytes = buffer_bytes;
    header.forwarded_bytes = forwarded_bytes;
    SendRaw(header, data);
  }
  void SendRaw(const VsockHeader& header, absl::string_view data = "") {
    const GuestAddress at = output == 0 ? output = driver->Allocate(1 << 17) : output;
    ASSERT_TRUE(services.memory().WriteObject(at, header));
    ASSERT_TRUE(services.memory().Write(
        at + sizeof(header),
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(data.data()), data.size())));
    std::vector<Buffer> buffers = {{at, sizeof(header), false}};
    if (!data.empty()) {
      buffers.push_back({at + sizeof(header), static_cast<uint32_t>(data.size()), false});
    }
    driver->queue(VsockDevice::kFromGuest).Add(buffers);
    ASSERT_TRUE(driver->KickAndWait(VsockDevice::kFromGuest).has_value());
  }
  // Gives a buffer for the next packet, and waits for it.
  std::optional<Packet> Receive() {
    if (input == 0) input = driver->Allocate(kBufferSize);
    FakeQueue& queue = driver->queue(VsockDevice::kToGuest);
    if (!buffer_is_offered) {
      queue.Add({{input, kBufferSize, true}});
      driver->Kick(VsockDevice::kToGuest);
    }
    std::optional<UsedElement> used;
    for (int i = 0; i < 200 && !(used = queue.PopUsed()).has_value(); ++i) services.RunWatches(5);
    buffer_is_offered = !used.has_value();
    if (!used.has_value()) return std::nullopt;
    Packet packet;
    EXPECT_TRUE(services.memory().ReadObject(input, packet.header));
    EXPECT_EQ(used->length, sizeof(VsockHeader) + packet.header.length);
    packet.data.resize(packet.header.length);
    EXPECT_TRUE(services.memory().Read(
        input + sizeof(VsockHeader),
        absl::MakeSpan(reinterpret_cast<uint8_t*>(packet.data.data()), packet.data.size())));
    return packet;
  }
  VsockOperation ReceiveOperation() {
    const std::optional<Packet> packet = Receive();
    return packet.has_value() ? packet->operation() : VsockOperation::kInvalid;
  }

  // ---- The vmm

  // The next request; grants are counted on the way.
  std::optional<VsockRequest> NextRequest() {
    for (;;) {
      VsockRequest request;
      if (recv(link.get(), &request, sizeof(request), MSG_DONTWAIT) != sizeof(request)) {
        return std::nullopt;
      }
      if (request.kind != VsockRequest::kGrant) return request;
      granted = request.id;
    }
  }
  // Gives the device one end of a new pair of sockets, and returns the other.
  UniqueFd Answer(const VsockAnswer& answer) {
    auto sockets = CreateSocketPair(SOCK_STREAM).value();
    EXPECT_TRUE(SendSocketMessage(link.get(),
                                  {reinterpret_cast<const char*>(&answer), sizeof(answer)},
                                  {sockets.second.get()})
                    .ok());
    sockets.second.reset();
    services.RunWatches(0);
    return std::move(sockets.first);
  }
  void Refuse(uint32_t id) {
    const VsockAnswer answer = {.kind = VsockAnswer::kRefused, .id = id};
    EXPECT_TRUE(
        SendSocketMessage(link.get(), {reinterpret_cast<const char*>(&answer), sizeof(answer)}, {})
            .ok());
    services.RunWatches(0);
  }

  // ---- The host

  // What has come within a moment; "(end)": and the end of the stream.
  std::string ReadAll(const UniqueFd& socket) {
    std::string all;
    char bytes[4096];
    for (;;) {
      services.RunWatches(0);
      const ssize_t size = recv(socket.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
      if (size < 0) return errno == EAGAIN ? all : absl::StrCat(all, "(error)");
      if (size == 0) return absl::StrCat(all, "(end)");
      all.append(bytes, static_cast<size_t>(size));
    }
  }
  void Write(const UniqueFd& socket, absl::string_view text) {
    ASSERT_EQ(send(socket.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
    services.RunWatches(0);
  }

  // An established connection that the guest has begun.
  UniqueFd ConnectFromGuest() {
    Send(VsockOperation::kRequest);
    const std::optional<VsockRequest> request = NextRequest();
    EXPECT_TRUE(request.has_value() && request->kind == VsockRequest::kConnect &&
                request->port == kHostPort);
    UniqueFd socket = Answer({.kind = VsockAnswer::kConnected, .id = request->id});
    EXPECT_EQ(ReceiveOperation(), VsockOperation::kResponse);
    return socket;
  }

  double Metric(absl::string_view name) {
    v1::DeviceMetrics metrics;
    model->AppendMetrics(metrics);
    for (const v1::DeviceMetric& metric : metrics.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    return -1;
  }

  FakeServices services;
  UniqueFd link;  // the vmm's end
  std::unique_ptr<PciTransport> model;
  std::unique_ptr<FakeDriver> driver;
  GuestAddress output = 0;
  GuestAddress input = 0;
  bool buffer_is_offered = false;
  uint32_t buffer_bytes = 1 << 20;
  uint32_t forwarded_bytes = 0;
  uint32_t granted = 0;
};

TEST_F(VsockDeviceTest, RefusesCidsThatNoGuestMayHave) {
  for (const uint64_t cid :
       {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{0xffffffff}, uint64_t{1} << 32 | 5}) {
    EXPECT_EQ(VsockDevice::Create(cid).status().message(),
              absl::StrCat("--cid: ", cid, " is out of range (3 to 4294967294)"));
  }
}

TEST_F(VsockDeviceTest, ShowsItsCid) {
  EXPECT_EQ(model->Describe().pci().device_id(), 0x1053u);
  EXPECT_EQ(driver->ReadConfig(0, 8), kCid);
  EXPECT_EQ(driver->ReadConfig(0, 1), kCid);
  EXPECT_EQ(driver->ReadConfig(4, 4), 0u);
}

TEST_F(VsockDeviceTest, TheGuestConnectsAndBothSidesSend) {
  const UniqueFd host = ConnectFromGuest();
  Send(VsockOperation::kData, "to the host");
  EXPECT_EQ(ReadAll(host), "to the host");
  Write(host, "to the guest");
  const std::optional<Packet> packet = Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->operation(), VsockOperation::kData);
  EXPECT_EQ(packet->data, "to the guest");
  EXPECT_EQ(packet->header.source_cid, kHostCid);
  EXPECT_EQ(packet->header.destination_cid, kCid);
  EXPECT_EQ(packet->header.source_port, kHostPort);
  EXPECT_EQ(packet->header.destination_port, kGuestPort);
  EXPECT_EQ(packet->header.forwarded_bytes, 11u);
  EXPECT_EQ(packet->header.buffer_bytes, kAll);
  EXPECT_EQ(Metric("guest_connections_total"), 1);
  EXPECT_EQ(Metric("to_host_bytes_total"), 11);
  EXPECT_EQ(Metric("to_guest_bytes_total"), 12);
}

TEST_F(VsockDeviceTest, ARefusedConnectionIsReset) {
  Send(VsockOperation::kRequest);
  Refuse(NextRequest()->id);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  EXPECT_EQ(Metric("refused_total"), 1);
  EXPECT_EQ(Metric("connections"), 0);
}

TEST_F(VsockDeviceTest, AClientConnectsToAPortOfTheGuest) {
  EXPECT_FALSE(NextRequest().has_value());
  EXPECT_EQ(granted, VsockSwitch::kMaxGreetings);
  const UniqueFd client = Answer({.kind = VsockAnswer::kAccepted});
  Write(client, "CONN");
  Write(client, "ECT 52\nfirst data");
  std::optional<Packet> packet = Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->operation(), VsockOperation::kRequest);
  EXPECT_EQ(packet->header.destination_port, 52u);
  const uint32_t port = packet->header.source_port;
  EXPECT_EQ(ReadAll(client), "");
  Send(VsockOperation::kResponse, "", 0, 52, port);
  EXPECT_EQ(ReadAll(client), absl::StrCat("OK ", port, "\n"));
  packet = Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->data, "first data");
  Send(VsockOperation::kData, "answer", 0, 52, port);
  EXPECT_EQ(ReadAll(client), "answer");
  EXPECT_EQ(Metric("host_connections_total"), 1);
}

TEST_F(VsockDeviceTest, AClientIsClosedIfNobodyListensInTheGuest) {
  const UniqueFd client = Answer({.kind = VsockAnswer::kAccepted});
  Write(client, "CONNECT 52\n");
  const std::optional<Packet> packet = Receive();
  ASSERT_TRUE(packet.has_value());
  Send(VsockOperation::kReset, "", 0, 52, packet->header.source_port);
  EXPECT_EQ(ReadAll(client), "(end)");
}

TEST_F(VsockDeviceTest, AClientThatAsksForNoPortIsClosed) {
  for (const char* const text :
       {"GET / HTTP/1.0\n", "CONNECT x\n", "CONNECT 00000000000000000001"}) {
    const UniqueFd client = Answer({.kind = VsockAnswer::kAccepted});
    Write(client, text);
    const std::string got = ReadAll(client);
    EXPECT_TRUE(got == "(end)" || got == "(error)") << text << got;
  }
  NextRequest();
  EXPECT_EQ(granted, VsockSwitch::kMaxGreetings + 3);
}

TEST_F(VsockDeviceTest, PacketsOfNoConnectionAreReset) {
  Send(VsockOperation::kData, "x");
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  Send(VsockOperation::kReset);
  VsockHeader header = {.source_cid = kCid, .destination_cid = 3};
  header.type = 2;
  header.operation = static_cast<uint16_t>(VsockOperation::kRequest);
  SendRaw(header);
  const std::optional<Packet> packet = Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->operation(), VsockOperation::kReset);
  EXPECT_EQ(packet->header.type, 2);
  EXPECT_EQ(Metric("connection_resets_total"), 2);
}

TEST_F(VsockDeviceTest, MalformedPacketsAreDropped) {
  VsockHeader header = {.source_cid = kCid + 1, .destination_cid = kHostCid};
  header.type = kVsockStream;
  SendRaw(header);
  header.source_cid = kCid;
  header.length = 5;
  SendRaw(header, "1234");
  EXPECT_EQ(Metric("malformed_packets_total"), 2);
  EXPECT_EQ(Metric("connection_resets_total"), 0);
}

TEST_F(VsockDeviceTest, TheHostsShutdownAndCloseReachTheGuest) {
  UniqueFd host = ConnectFromGuest();
  Write(host, "last");
  shutdown(host.get(), SHUT_WR);
  EXPECT_EQ(Receive()->data, "last");
  std::optional<Packet> packet = Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->operation(), VsockOperation::kShutdown);
  EXPECT_EQ(packet->header.flags, kShutdownSend);
  Send(VsockOperation::kData, "still");
  EXPECT_EQ(ReadAll(host), "still");
  host.reset();
  packet = Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->operation(), VsockOperation::kShutdown);
  EXPECT_EQ(packet->header.flags, kShutdownBoth);
  Send(VsockOperation::kReset);
  EXPECT_EQ(Metric("connections"), 0);
}

TEST_F(VsockDeviceTest, TheGuestsShutdownReachesTheHostBehindItsData) {
  const UniqueFd host = ConnectFromGuest();
  Send(VsockOperation::kData, "last");
  Send(VsockOperation::kShutdown, "", kShutdownSend);
  EXPECT_EQ(ReadAll(host), "last(end)");
  Write(host, "answer");
  EXPECT_EQ(Receive()->data, "answer");
  Send(VsockOperation::kShutdown, "", kShutdownBoth);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  EXPECT_EQ(Metric("connections"), 0);
}

TEST_F(VsockDeviceTest, WhatTheHostDoesNotReadIsBoundedByCreditAndArrivesInOrder) {
  const UniqueFd host = ConnectFromGuest();
  std::string all;
  uint64_t credit = kAll;
  // As much as the guest has credit for, while the host reads nothing.
  while (credit > 0) {
    const size_t size = std::min<uint64_t>(credit, 30'000);
    std::string data(size, 0);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>((all.size() + i) * 7 / 3);
    Send(VsockOperation::kData, data);
    all += data;
    credit -= size;
    Send(VsockOperation::kCreditRequest);
    const std::optional<Packet> packet = Receive();
    ASSERT_TRUE(packet.has_value());
    credit = kAll - (static_cast<uint32_t>(all.size()) - packet->header.forwarded_bytes);
  }
  EXPECT_GT(all.size(), kAll);
  // The guest is gone before the host reads.
  Send(VsockOperation::kShutdown, "", kShutdownBoth);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  Send(VsockOperation::kReset);
  EXPECT_EQ(ReadAll(host), all + "(end)");
  EXPECT_EQ(Metric("connections"), 0);
}

TEST_F(VsockDeviceTest, AGuestWithoutCreditIsResetAndOthersGoOn) {
  const UniqueFd host = ConnectFromGuest();
  const std::string much(60'000, 'x');
  VsockOperation got = VsockOperation::kInvalid;
  for (int i = 0; i < 20 && got != VsockOperation::kReset; ++i) {
    Send(VsockOperation::kData, much);
    while (Metric("credit_violations_total") == 1 && got != VsockOperation::kReset) {
      got = ReceiveOperation();
    }
  }
  EXPECT_EQ(got, VsockOperation::kReset);
  const UniqueFd other = ConnectFromGuest();
  Send(VsockOperation::kData, "fine");
  EXPECT_EQ(ReadAll(other), "fine");
}

TEST_F(VsockDeviceTest, TheHostsDataWaitsForCredit) {
  buffer_bytes = 10;
  const UniqueFd host = ConnectFromGuest();
  Write(host, "0123456789abcdef");
  EXPECT_EQ(Receive()->data, "0123456789");
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kCreditRequest);
  EXPECT_FALSE(Receive().has_value());
  forwarded_bytes = 4;
  Send(VsockOperation::kCreditUpdate);
  EXPECT_EQ(Receive()->data, "abcd");
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kCreditRequest);
  buffer_bytes = 1000;
  Send(VsockOperation::kCreditUpdate);
  EXPECT_EQ(Receive()->data, "ef");
}

TEST_F(VsockDeviceTest, AFloodWithoutBuffersForAnswersIsHeldBack) {
  // The guest takes no packets: the device stops taking its, and keeps a bounded number of resets.
  VsockHeader header = {.source_cid = kCid, .destination_cid = kHostCid};
  header.type = kVsockStream;
  header.operation = static_cast<uint16_t>(VsockOperation::kData);
  const GuestAddress at = driver->Allocate(sizeof(header));
  ASSERT_TRUE(services.memory().WriteObject(at, header));
  FakeQueue& queue = driver->queue(VsockDevice::kFromGuest);
  for (int i = 0; i < VsockDevice::kQueueSize; ++i) queue.Add({{at, sizeof(header), false}});
  driver->Kick(VsockDevice::kFromGuest);
  for (int i = 0; i < 100; ++i) services.RunWatches(0);
  EXPECT_EQ(queue.used_idx(), VsockSwitch::kMaxResets);
  for (int i = 0; i < VsockDevice::kQueueSize; ++i) {
    EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  }
  EXPECT_EQ(queue.used_idx(), VsockDevice::kQueueSize);
}

TEST_F(VsockDeviceTest, TheNumberOfConnectionsThatWaitForTheHostIsBounded) {
  for (uint32_t i = 0; i <= kMaxPendingConnects; ++i) {
    Send(VsockOperation::kRequest, "", 0, 10'000 + i);
  }
  EXPECT_EQ(Metric("connections"), kMaxPendingConnects);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  EXPECT_EQ(Metric("refused_total"), 1);
}

TEST_F(VsockDeviceTest, AResetOfTheDeviceEndsAllConnections) {
  const UniqueFd host = ConnectFromGuest();
  const UniqueFd client = Answer({.kind = VsockAnswer::kAccepted});
  ASSERT_TRUE(driver->Reset());
  EXPECT_EQ(ReadAll(host), "(end)");
  EXPECT_EQ(ReadAll(client), "(end)");
  // What the vmm accepted before it was reset.
  EXPECT_EQ(ReadAll(Answer({.kind = VsockAnswer::kAccepted})), "(end)");
}

TEST_F(VsockDeviceTest, ASuccessorTellsTheGuestThatConnectionsAreGone) {
  const UniqueFd host = ConnectFromGuest();
  EXPECT_FALSE(Receive().has_value());  // leaves a buffer for the successor
  const std::vector<uint8_t> state = Save();
  StartProcess(&state);
  EXPECT_EQ(ReadAll(host), "(end)");
  // The event comes as soon as there is a buffer for it, and once.
  const GuestAddress event = driver->Allocate(16);
  ASSERT_TRUE(services.memory().WriteObject(event, ~uint64_t{0}));
  driver->queue(VsockDevice::kEvents).Add({{event, 4, true}});
  driver->queue(VsockDevice::kEvents).Add({{event + 8, 4, true}});
  model->OnDoorbell(VsockDevice::kEvents);
  const std::optional<UsedElement> used = driver->queue(VsockDevice::kEvents).PopUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->length, 4u);
  uint32_t id = ~0u;
  ASSERT_TRUE(services.memory().ReadObject(event, id));
  EXPECT_EQ(id, kEventTransportReset);
  EXPECT_FALSE(driver->queue(VsockDevice::kEvents).PopUsed().has_value());
  EXPECT_EQ(Metric("transport_resets_total"), 1);

  // A connection that begins now may still fall under the event, of which the guest says nothing.
  const UniqueFd next = ConnectFromGuest();
  VsockOperation asked = VsockOperation::kInvalid;
  for (int i = 0; i < 10 && asked == VsockOperation::kInvalid; ++i) asked = ReceiveOperation();
  EXPECT_EQ(asked, VsockOperation::kCreditRequest);
  EXPECT_EQ(ReadAll(next), "");
  Send(VsockOperation::kReset);
  EXPECT_EQ(ReadAll(next), "(end)");
}

TEST_F(VsockDeviceTest, ASuccessorServesNewConnections) {
  const UniqueFd old = ConnectFromGuest();
  const std::vector<uint8_t> state = Save();
  StartProcess(&state);
  driver = std::make_unique<FakeDriver>(*model, services);
  output = input = 0;
  ASSERT_TRUE(driver->Initialize(kFeatureEventIndex));
  Send(VsockOperation::kData, "of the old connection");
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  const UniqueFd host = ConnectFromGuest();
  Send(VsockOperation::kData, "new");
  EXPECT_EQ(ReadAll(host), "new");
}

TEST_F(VsockDeviceTest, BuffersThatNoHeaderFitsIntoAreGivenBack) {
  Send(VsockOperation::kData, "x");
  const GuestAddress at = driver->Allocate(64);
  driver->queue(VsockDevice::kToGuest).Add({{at, 43, true}});
  EXPECT_EQ(driver->KickAndWait(VsockDevice::kToGuest)->length, 0u);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
}

TEST_F(VsockDeviceTest, AGuestThatReceivesNoMoreHearsThatTheHostIsGone) {
  UniqueFd host = ConnectFromGuest();
  Send(VsockOperation::kShutdown, "", kShutdownReceive);
  Send(VsockOperation::kData, "never read");
  host.reset();
  services.RunWatches(0);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kShutdown);
}

TEST_F(VsockDeviceTest, WithoutTheVmmTheGuestsConnectionsAreRefused) {
  const UniqueFd host = ConnectFromGuest();
  link.reset();
  services.RunWatches(0);
  Send(VsockOperation::kRequest, "", 0, 5000);
  EXPECT_EQ(ReceiveOperation(), VsockOperation::kReset);
  Send(VsockOperation::kData, "lives on");
  EXPECT_EQ(ReadAll(host), "lives on");
}

}  // namespace
}  // namespace bulkhead::devices::virtio
