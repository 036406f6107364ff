#include "vmm/console/device_stream.h"

#include <string.h>

#include <string>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

std::string Packet(uint64_t position, uint64_t acknowledged, absl::string_view data = "") {
  const ConsolePacketHeader header = {position, acknowledged};
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + std::string(data);
}

// The next packet, which is sent by this: "position/acknowledged:data", or "none".
std::string Send(DeviceStream& stream) {
  std::string packet;
  if (!stream.NextPacket(packet)) return "none";
  stream.PacketSent(packet);
  ConsolePacketHeader header;
  memcpy(&header, packet.data(), sizeof(header));
  return std::to_string(header.position) + "/" + std::to_string(header.acknowledged) + ":" +
         packet.substr(sizeof(header));
}

DeviceStream Connected() {
  DeviceStream stream("uart0");
  stream.Connect();
  EXPECT_EQ(stream.Receive(Packet(kConsolePositionUnknown, 0)), "");
  EXPECT_EQ(Send(stream), "0/0:");
  return stream;
}

TEST(DeviceStreamTest, OutputThatComesAgainIsDropped) {
  DeviceStream stream = Connected();
  EXPECT_EQ(stream.Receive(Packet(0, 0, "hello")), "hello");
  EXPECT_EQ(stream.Receive(Packet(0, 0, "hello")), "");
  EXPECT_EQ(stream.Receive(Packet(3, 0, "lo, world")), ", world");
  EXPECT_EQ(stream.Receive(Packet(12, 0, "!")), "!");
}

TEST(DeviceStreamTest, ASuccessorGoesOnFromWhereItWasSaved) {
  DeviceStream stream = Connected();
  EXPECT_EQ(stream.Receive(Packet(0, 0, "abc")), "abc");
  stream.Connect();
  EXPECT_EQ(stream.Receive(Packet(1, 0)), "") << "where it is";
  EXPECT_EQ(stream.Receive(Packet(1, 0, "bc")), "");
  EXPECT_EQ(stream.Receive(Packet(3, 0, "d")), "d");
}

TEST(DeviceStreamTest, ADeviceWithoutStateIsToldBothPositions) {
  DeviceStream stream = Connected();
  EXPECT_EQ(stream.Receive(Packet(0, 0, "abc")), "abc");
  EXPECT_EQ(stream.AddInput("12345"), 5u);
  EXPECT_EQ(Send(stream), "0/3:12345");
  EXPECT_EQ(stream.Receive(Packet(3, 2)), "");
  stream.Connect();
  EXPECT_EQ(Send(stream), "none") << "until it has said where it is";
  EXPECT_EQ(stream.Receive(Packet(kConsolePositionUnknown, 0)), "");
  EXPECT_EQ(Send(stream), "2/3:");
  EXPECT_EQ(Send(stream), "2/3:345");
  EXPECT_EQ(Send(stream), "none");
}

TEST(DeviceStreamTest, InputIsSentAgainToASuccessorUntilItIsAcknowledged) {
  DeviceStream stream = Connected();
  stream.AddInput("typed");
  EXPECT_EQ(Send(stream), "0/0:typed");
  stream.Connect();
  stream.AddInput(" ahead");
  EXPECT_EQ(Send(stream), "none");
  stream.Receive(Packet(0, 3));
  EXPECT_EQ(Send(stream), "3/0:ed ahead");
  EXPECT_EQ(stream.kept_input(), 8u);
  stream.Receive(Packet(0, 11));
  EXPECT_EQ(stream.kept_input(), 0u);
}

TEST(DeviceStreamTest, AnAcknowledgementThatComesBeforeItIsSentAgainCounts) {
  DeviceStream stream = Connected();
  stream.AddInput("typed");
  Send(stream);
  stream.Connect();
  stream.Receive(Packet(0, 5));  // its predecessor has taken it all in
  EXPECT_EQ(stream.kept_input(), 0u);
  EXPECT_EQ(Send(stream), "none");
}

TEST(DeviceStreamTest, InputIsKeptUpToItsLimitAndSentInPackets) {
  DeviceStream stream = Connected();
  const std::string much(DeviceStream::kMaxKeptInput + 1, 'x');
  EXPECT_EQ(stream.AddInput(much), DeviceStream::kMaxKeptInput);
  EXPECT_EQ(stream.AddInput("y"), 0u);
  EXPECT_EQ(Send(stream), "0/0:" + std::string(kMaxConsoleBytes, 'x'));
  stream.Receive(Packet(0, 10));
  EXPECT_EQ(stream.input_room(), 10u);
  EXPECT_EQ(Send(stream), "4096/0:" + std::string(kMaxConsoleBytes, 'x'));
}

TEST(DeviceStreamTest, WhatBreaksTheProtocolIsIgnored) {
  DeviceStream stream = Connected();
  stream.AddInput("typed");
  Send(stream);
  EXPECT_EQ(stream.Receive(""), "");
  EXPECT_EQ(stream.Receive("short"), "");
  EXPECT_EQ(stream.Receive(Packet(0, 0, std::string(kMaxConsoleBytes + 1, 'x'))), "");
  stream.Receive(Packet(0, 6));  // more than was sent
  stream.Receive(Packet(0, ~uint64_t{0}));
  EXPECT_EQ(stream.kept_input(), 5u);
  stream.Connect();
  EXPECT_EQ(stream.Receive(Packet(0, 0, "first")), "") << "before it has said where it is";
  EXPECT_EQ(Send(stream), "none");
}

TEST(DeviceStreamTest, AfterAJumpOutputGoesOnFromThere) {
  DeviceStream stream = Connected();
  EXPECT_EQ(stream.Receive(Packet(1000, 0, "gap")), "gap");
  EXPECT_EQ(stream.Receive(Packet(1000, 0, "gap")), "");
  EXPECT_EQ(stream.Receive(Packet(uint64_t{1} << 50, 0, "far")), "far");
  EXPECT_EQ(stream.Receive(Packet(~uint64_t{0} - 1, 0, "ab")), "ab");
  EXPECT_EQ(stream.Receive(Packet(~uint64_t{0}, 0, "bcd")), "cd") << "positions wrap";
  // A successor that is not compromised is far behind what was claimed: not dropped for ever.
  stream.Connect();
  stream.Receive(Packet(uint64_t{1} << 40, 0));
  EXPECT_EQ(stream.Receive(Packet(uint64_t{1} << 40, 0, "honest")), "honest");
}

}  // namespace
}  // namespace bulkhead::vmm
