// Streams over virtio-vsock, both ways, whatever happens to the device's process: connections may
// be reset, but what arrives is right, and new ones work.
//
// - Port 7 echoes what a client of the host sends, and closes behind the client's last byte.
// - One connection of its own, to port 5000 of the host, sends bytes that the host echoes, and
//   checks the echo; after a reset comes another one.
// - The program ends when a client of port 9 does, and prints what it has done.
//
// Needs a virtio-vsock device. Options: event_index=0 does not negotiate that feature (1).
#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kVsockType = 19;
constexpr uint32_t kEchoPort = 7;
constexpr uint32_t kEndPort = 9;
constexpr uint32_t kHostPort = 5000;
constexpr uint32_t kHostCid = 2;
constexpr uint64_t kAnswerCycles = 3'000'000'000;  // then a request counts as lost
constexpr uint64_t kPauseCycles = 50'000'000;      // before the next one
constexpr uint64_t kTransmitCycles = 10 * kLongWaitCycles;

enum Operation : uint16_t {
  kRequest = 1,
  kResponse,
  kReset,
  kShutdown,
  kData,
  kCreditUpdate,
  kCreditRequest,
};
constexpr uint32_t kSendsNoMore = 2;
constexpr uint32_t kBoth = 3;

#pragma pack(push, 4)
struct Header {
  uint64_t source_cid, destination_cid;
  uint32_t source_port, destination_port, length;
  uint16_t type, operation;
  uint32_t flags, buffer, forwarded;
};
#pragma pack(pop)
static_assert(sizeof(Header) == 44);

constexpr uint32_t kMaxData = 2048;
struct Packet {
  Header header;
  uint8_t data[kMaxData];
};

constexpr uint16_t kReceiveBuffers = 32;
constexpr uint16_t kTransmitBuffers = 32;
constexpr uint16_t kEventBuffers = 4;
Packet received[kReceiveBuffers];
Packet sent[kTransmitBuffers];
uint32_t events[kEventBuffers];

constexpr uint32_t kRoom = 16384;
struct Connection {
  bool used;
  bool own;          // the program's, which checks an echo
  bool established;  // else: requested
  bool ending;       // the host sends no more
  bool ended;        // shutdown sent
  uint32_t port;     // the guest's
  uint32_t host_port;
  uint64_t begun;                      // of a request, cycles
  uint32_t received, forwarded;        // bytes from the host
  uint32_t sent;                       // bytes to the host
  uint32_t host_room, host_forwarded;  // the host's credit
  uint8_t bytes[kRoom];                // not echoed yet: a ring by `forwarded` and `received`
};
constexpr uint32_t kMaxConnections = 16;
Connection connections[kMaxConnections];

uint64_t own_cid;
bool done;
uint32_t next_port = 10'000;
uint16_t transmit_next;  // buffers are used in turn
uint16_t transmit_free = kTransmitBuffers;
uint64_t accepted, connected, refused, resets, transport_resets, echoed_bytes, checked_bytes;

// The bytes of the program's own streams, by position.
uint8_t ByteAt(uint32_t position) {
  return static_cast<uint8_t>((position * 2654435761u) >> 24 ^ position);
}

// ---- Packets

// The packet that Transmit() sends next.
Packet& NextPacket(VirtioDevice& device) {
  Virtqueue& queue = device.queue(1);
  const auto take_used = [&queue] {
    for (; queue.HasUsed(); ++transmit_free) queue.TakeUsed();
    return transmit_free != 0;
  };
  if (!WaitFor(take_used, kTransmitCycles)) Fail("no packet is taken any more");
  return sent[transmit_next % kTransmitBuffers];
}

void Transmit(VirtioDevice& device, uint16_t operation, uint32_t port, uint32_t host_port,
              const Connection* connection, uint32_t flags = 0, uint32_t length = 0) {
  Virtqueue& queue = device.queue(1);
  Packet& packet = NextPacket(device);
  const uint16_t index = transmit_next++ % kTransmitBuffers;
  --transmit_free;
  packet.header = {.source_cid = own_cid,
                   .destination_cid = kHostCid,
                   .source_port = port,
                   .destination_port = host_port,
                   .length = length,
                   .type = 1,
                   .operation = operation,
                   .flags = flags,
                   .buffer = kRoom,
                   .forwarded = connection == nullptr ? 0 : connection->forwarded};
  queue.descriptor(index) = {AddressOf(&packet), static_cast<uint32_t>(sizeof(Header)) + length, 0,
                             0};
  queue.Submit(index);
  queue.NotifyIfWanted();
}

void Transmit(VirtioDevice& device, uint16_t operation, const Connection& connection,
              uint32_t flags = 0, uint32_t length = 0) {
  Transmit(device, operation, connection.port, connection.host_port, &connection, flags, length);
}

// ---- Connections

Connection* Find(uint32_t port, uint32_t host_port) {
  for (Connection& connection : connections) {
    if (connection.used && connection.port == port && connection.host_port == host_port) {
      return &connection;
    }
  }
  return nullptr;
}

Connection* Add(uint32_t port, uint32_t host_port) {
  for (Connection& connection : connections) {
    if (connection.used) continue;
    memset(&connection, 0, sizeof(connection));
    connection.used = true;
    connection.port = port;
    connection.host_port = host_port;
    connection.begun = ReadTsc();
    return &connection;
  }
  return nullptr;
}

uint32_t HostRoom(const Connection& connection) {
  const uint32_t in_flight = connection.sent - connection.host_forwarded;
  return in_flight < connection.host_room ? connection.host_room - in_flight : 0;
}

void OnData(VirtioDevice& device, Connection& connection, const Packet& packet) {
  const uint32_t length = packet.header.length;
  // Within the guest's credit.
  EXPECT_TRUE(length <= kMaxData && connection.received - connection.forwarded + length <= kRoom);
  for (uint32_t i = 0; i < length; ++i) {
    if (connection.own) {
      EXPECT_EQ(packet.data[i], ByteAt(connection.received + i));
    } else {
      connection.bytes[(connection.received + i) % kRoom] = packet.data[i];
    }
  }
  connection.received += length;
  if (!connection.own) return;
  EXPECT_TRUE(connection.received <= connection.sent);
  connection.forwarded = connection.received;
  checked_bytes += length;
  Transmit(device, kCreditUpdate, connection);
}

void OnPacket(VirtioDevice& device, const Packet& packet, uint32_t size) {
  const Header& header = packet.header;
  EXPECT_TRUE(size >= sizeof(Header) && size == sizeof(Header) + header.length);
  EXPECT_EQ(header.source_cid, kHostCid);
  EXPECT_EQ(header.destination_cid, own_cid);
  const uint32_t port = header.destination_port;
  const uint32_t host_port = header.source_port;
  Connection* connection = Find(port, host_port);
  if (header.operation == kRequest) {
    if (connection == nullptr && (port == kEchoPort || port == kEndPort)) {
      connection = Add(port, host_port);
    } else {
      connection = nullptr;
    }
    if (connection == nullptr) {
      Transmit(device, kReset, port, host_port, nullptr);
      return;
    }
    connection->established = true;
    ++accepted;
    Transmit(device, kResponse, *connection);
  }
  if (connection == nullptr) {
    if (header.operation != kReset) Transmit(device, kReset, port, host_port, nullptr);
    return;
  }
  connection->host_room = header.buffer;
  connection->host_forwarded = header.forwarded;
  switch (header.operation) {
    case kResponse:
      EXPECT_TRUE(connection->own && !connection->established);
      connection->established = true;
      ++connected;
      return;
    case kReset:
      ++(connection->established ? resets : refused);
      connection->used = false;
      return;
    case kShutdown:
      connection->ending |= (header.flags & kSendsNoMore) != 0;
      done |= port == kEndPort;
      return;
    case kData:
      OnData(device, *connection, packet);
      return;
    case kCreditRequest:
      Transmit(device, kCreditUpdate, *connection);
      return;
    default:
      return;
  }
}

// ---- What is to be done

void GiveReceiveBuffer(VirtioDevice& device, uint16_t index) {
  device.queue(0).descriptor(index) = {AddressOf(&received[index]), sizeof(Packet),
                                       kDescriptorWrite, 0};
  device.queue(0).Submit(index);
  device.queue(0).NotifyIfWanted();
}

void GiveEventBuffer(VirtioDevice& device, uint16_t index) {
  device.queue(2).descriptor(index) = {AddressOf(&events[index]), sizeof(uint32_t),
                                       kDescriptorWrite, 0};
  device.queue(2).Submit(index);
  device.queue(2).NotifyIfWanted();
}

void TakePackets(VirtioDevice& device) {
  while (device.queue(2).HasUsed()) {
    const Virtqueue::Used used = device.queue(2).TakeUsed();
    EXPECT_EQ(used.length, sizeof(uint32_t));
    EXPECT_EQ(events[used.head], 0u);  // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
    ++transport_resets;
    for (Connection& connection : connections) connection.used = false;
    GiveEventBuffer(device, static_cast<uint16_t>(used.head));
  }
  while (device.queue(0).HasUsed()) {
    const Virtqueue::Used used = device.queue(0).TakeUsed();
    EXPECT_TRUE(used.head < kReceiveBuffers);
    if (used.length != 0) OnPacket(device, received[used.head], used.length);
    GiveReceiveBuffer(device, static_cast<uint16_t>(used.head));
  }
}

void Echo(VirtioDevice& device, Connection& connection) {
  uint32_t length = connection.received - connection.forwarded;
  if (length > HostRoom(connection)) length = HostRoom(connection);
  if (length > kMaxData) length = kMaxData;
  if (length != 0) {
    uint8_t* const data = NextPacket(device).data;
    for (uint32_t i = 0; i < length; ++i) {
      data[i] = connection.bytes[(connection.forwarded + i) % kRoom];
    }
    connection.forwarded += length;
    connection.sent += length;
    echoed_bytes += length;
    Transmit(device, kData, connection, 0, length);
  }
  if (connection.ending && !connection.ended && connection.received == connection.forwarded) {
    connection.ended = true;
    Transmit(device, kShutdown, connection, kBoth);
  }
}

void SendOwn(VirtioDevice& device, Connection& connection) {
  constexpr uint32_t kMaxUnchecked = 8192;
  uint32_t length = connection.sent - connection.received < kMaxUnchecked ? kMaxData : 0;
  if (length > HostRoom(connection)) length = HostRoom(connection);
  if (length == 0) return;
  uint8_t* const data = NextPacket(device).data;
  for (uint32_t i = 0; i < length; ++i) data[i] = ByteAt(connection.sent + i);
  connection.sent += length;
  Transmit(device, kData, connection, 0, length);
}

// One connection of its own, always.
void KeepOwn(VirtioDevice& device, uint64_t& next_try) {
  Connection* own = nullptr;
  for (Connection& connection : connections) {
    if (connection.used && connection.own) own = &connection;
  }
  if (own == nullptr) {
    if (ReadTsc() < next_try) return;
    next_try = ReadTsc() + kPauseCycles;
    own = Add(next_port++, kHostPort);
    if (own == nullptr) return;
    own->own = true;
    Transmit(device, kRequest, *own);
    return;
  }
  if (own->established) {
    SendOwn(device, *own);
  } else if (ReadTsc() - own->begun > kAnswerCycles) {
    // The request or its answer ended with a process.
    ++refused;
    own->used = false;
  }
}

}  // namespace

void RunVsockEcho() {
  VirtioDevice device(kVsockType);
  device.Start(NumberOption("event_index", 1) != 0 ? kFeatureEventIndex : 0, 3);
  own_cid = device.ReadConfig<uint64_t>(0);
  for (uint16_t i = 0; i < kReceiveBuffers; ++i) GiveReceiveBuffer(device, i);
  for (uint16_t i = 0; i < kEventBuffers; ++i) GiveEventBuffer(device, i);
  Print("VSOCK ready, cid=", own_cid, "\n");
  uint64_t next_try = 0;
  while (!done) {
    TakePackets(device);
    for (Connection& connection : connections) {
      if (connection.used && connection.established && !connection.own) Echo(device, connection);
    }
    KeepOwn(device, next_try);
    Pause();
  }
  Print("VSOCK accepted=", accepted, " connected=", connected, " refused=", refused,
        " resets=", resets, " transport_resets=", transport_resets, " echoed=", echoed_bytes,
        " checked=", checked_bytes, "\n");
}

}  // namespace bulkhead::guest
