#include "devices/virtio_vsock/vsock_connection.h"

#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using Origin = VsockConnection::Origin;
using Operation = VsockOperation;
using State = VsockConnection::State;
using Verdict = VsockConnection::Verdict;

constexpr uint32_t kAll = VsockConnection::kBufferBytes;

VsockHeader Packet(Operation operation, uint32_t length = 0, uint32_t flags = 0,
                   uint32_t buffer_bytes = 1000, uint32_t forwarded_bytes = 0) {
  VsockHeader header;
  header.operation = static_cast<uint16_t>(operation);
  header.length = length;
  header.flags = flags;
  header.buffer_bytes = buffer_bytes;
  header.forwarded_bytes = forwarded_bytes;
  return header;
}

Operation NextControl(VsockConnection& connection, VsockHeader* header = nullptr) {
  VsockHeader own;
  if (header == nullptr) header = &own;
  if (!connection.has_control()) return Operation::kInvalid;
  connection.TakeControl(*header);
  connection.PutCredit(*header);
  return static_cast<Operation>(header->operation);
}

VsockConnection Established() {
  VsockConnection connection(Origin::kGuest);
  connection.TakeCredit(Packet(Operation::kRequest));
  connection.OnHostConnected();
  EXPECT_EQ(NextControl(connection), Operation::kResponse);
  return connection;
}

TEST(VsockConnectionTest, TheGuestsRequestIsAnsweredWhenTheHostIsConnected) {
  VsockConnection connection(Origin::kGuest);
  EXPECT_FALSE(connection.has_control());
  EXPECT_FALSE(connection.may_send());
  connection.OnHostConnected();
  EXPECT_EQ(NextControl(connection), Operation::kResponse);
  EXPECT_EQ(connection.state(), State::kEstablished);
}

TEST(VsockConnectionTest, TheHostsRequestWaitsForTheGuestsResponse) {
  VsockConnection connection(Origin::kHost);
  EXPECT_EQ(NextControl(connection), Operation::kRequest);
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kResponse)), Verdict::kConnected);
  EXPECT_TRUE(connection.may_send());
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kResponse)), Verdict::kBreach);
}

TEST(VsockConnectionTest, NothingButAResponseOrAResetIsAllowedBefore) {
  for (const Origin origin : {Origin::kGuest, Origin::kHost}) {
    for (uint16_t operation = 0; operation < 10; ++operation) {
      VsockConnection connection(origin);
      const Verdict verdict = connection.OnPacket(Packet(static_cast<Operation>(operation)));
      if (operation == static_cast<uint16_t>(Operation::kReset)) {
        EXPECT_EQ(verdict, Verdict::kEnded);
      } else if (origin == Origin::kHost &&
                 operation == static_cast<uint16_t>(Operation::kResponse)) {
        EXPECT_EQ(verdict, Verdict::kConnected);
      } else {
        EXPECT_EQ(verdict, Verdict::kBreach) << operation;
      }
    }
  }
}

TEST(VsockConnectionTest, TheGuestMayFillTheBufferAndNoMore) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, kAll)), Verdict::kDeliver);
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, 0)), Verdict::kDeliver);
  connection.OnDelivered(10);
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, 11)), Verdict::kCreditViolation);
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, 10)), Verdict::kDeliver);
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, ~0u)), Verdict::kCreditViolation);
}

TEST(VsockConnectionTest, TheGuestIsToldOfRoomWhenHalfOfTheBufferIsFreeAgain) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, kAll)), Verdict::kDeliver);
  connection.OnDelivered(kAll / 2 - 1);
  EXPECT_FALSE(connection.has_control());
  connection.OnDelivered(1);
  VsockHeader header;
  EXPECT_EQ(NextControl(connection, &header), Operation::kCreditUpdate);
  EXPECT_EQ(header.buffer_bytes, kAll);
  EXPECT_EQ(header.forwarded_bytes, kAll / 2);
  EXPECT_FALSE(connection.has_control());
}

TEST(VsockConnectionTest, CreditCountersPassTheirWrap) {
  VsockConnection connection = Established();
  uint32_t sent = 0;
  for (uint64_t total = 0; total < (uint64_t{5} << 30); total += kAll) {
    ASSERT_EQ(connection.OnPacket(Packet(Operation::kData, kAll, 0, kAll, sent)),
              Verdict::kDeliver);
    connection.OnDelivered(kAll);
    ASSERT_EQ(connection.guest_room(), kAll);
    connection.OnSent(kAll);
    ASSERT_EQ(connection.guest_room(), 0u);
    sent += kAll;
  }
}

TEST(VsockConnectionTest, SendsWhatTheGuestHasRoomFor) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.guest_room(), 1000u);
  connection.OnSent(1000);
  EXPECT_FALSE(connection.may_send());
  connection.OnPacket(Packet(Operation::kCreditUpdate, 0, 0, 1000, 300));
  EXPECT_EQ(connection.guest_room(), 300u);
}

TEST(VsockConnectionTest, ALieAboutCreditStopsTheConnectionAtMost) {
  VsockConnection connection = Established();
  connection.OnSent(100);
  // More taken than was sent; a buffer that has shrunk.
  connection.OnPacket(Packet(Operation::kCreditUpdate, 0, 0, 1000, 5000));
  EXPECT_EQ(connection.guest_room(), 0u);
  connection.OnPacket(Packet(Operation::kCreditUpdate, 0, 0, 50, 0));
  EXPECT_EQ(connection.guest_room(), 0u);
}

TEST(VsockConnectionTest, AsksForCreditOnceUntilTheGuestAnswers) {
  VsockConnection connection = Established();
  connection.OnOutOfCredit();
  connection.OnOutOfCredit();
  EXPECT_EQ(NextControl(connection), Operation::kCreditRequest);
  EXPECT_FALSE(connection.has_control());
  connection.OnPacket(Packet(Operation::kCreditUpdate, 0, 0, 0));
  connection.OnOutOfCredit();
  EXPECT_EQ(NextControl(connection), Operation::kCreditRequest);
}

TEST(VsockConnectionTest, ACreditRequestIsAnswered) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kCreditRequest)), Verdict::kNothing);
  EXPECT_EQ(NextControl(connection), Operation::kCreditUpdate);
}

TEST(VsockConnectionTest, AGuestThatHasShutDownSendsNoMore) {
  VsockConnection connection = Established();
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kShutdown, 0, kShutdownSend)),
            Verdict::kShutdown);
  EXPECT_FALSE(connection.guest_sends());
  EXPECT_TRUE(connection.guest_receives());
  EXPECT_TRUE(connection.may_send());
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, 1)), Verdict::kBreach);
  // Flags add up, and none is taken back.
  connection.OnPacket(Packet(Operation::kShutdown, 0, kShutdownReceive | 0xf0));
  EXPECT_FALSE(connection.guest_sends());
  EXPECT_FALSE(connection.guest_receives());
  EXPECT_FALSE(connection.may_send());
}

TEST(VsockConnectionTest, TheHostsShutdownIsToldInUpToTwoSteps) {
  VsockConnection connection = Established();
  VsockHeader header;
  connection.OnHostShutdown(/*both=*/false);
  EXPECT_EQ(NextControl(connection, &header), Operation::kShutdown);
  EXPECT_EQ(header.flags, kShutdownSend);
  EXPECT_FALSE(connection.may_send());
  connection.OnHostShutdown(false);
  EXPECT_FALSE(connection.has_control());
  EXPECT_EQ(connection.OnPacket(Packet(Operation::kData, 5)), Verdict::kDeliver);
  connection.OnHostShutdown(/*both=*/true);
  EXPECT_EQ(NextControl(connection, &header), Operation::kShutdown);
  EXPECT_EQ(header.flags, kShutdownBoth);
  EXPECT_TRUE(connection.host_is_closed());
}

}  // namespace
}  // namespace bulkhead::devices::virtio
