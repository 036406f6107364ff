#include "vmm/user_net/relay.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/config/program_report.h"

namespace bulkhead::vmm {
namespace {

const std::string kHeader(12, '\0');

// Returns one end; `other` gets the other one, which does not block either.
int Pair(int type, UniqueFd& other) {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  other.reset(ends[1]);
  return ends[0];
}

std::string WithLength(const std::string& frame) {
  const uint32_t length = htonl(static_cast<uint32_t>(frame.size()));
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + frame;
}

class RelayTest : public testing::Test {
 protected:
  RelayTest() {
    relay.SetDevice(Pair(SOCK_SEQPACKET, device));
    relay.SetProgram(Pair(SOCK_STREAM, program));
  }

  // Until nothing can be passed on.
  void Run() {
    for (int i = 0; i < 10'000; ++i) {
      pollfd ready[] = {{.fd = relay.device(), .events = relay.device_events(), .revents = 0},
                        {.fd = relay.program(), .events = relay.program_events(), .revents = 0}};
      if (poll(ready, 2, 0) <= 0) return;
      relay.Serve(ready[0].revents, ready[1].revents);
    }
    ADD_FAILURE() << "it spins";
  }
  static std::string Read(const UniqueFd& fd, size_t most = 1 << 20) {
    std::string bytes(most, '\0');
    const ssize_t size = read(fd.get(), bytes.data(), most);
    return size < 0 ? "nothing" : bytes.substr(0, static_cast<size_t>(size));
  }
  static void Write(const UniqueFd& fd, const std::string& bytes) {
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }

  UniqueFd device, program;
  LostFrames lost;
  Relay relay = Relay(lost);
  const std::string frame = std::string(60, 'f');
  const std::string longest = std::string(65553, 'l');
};

TEST_F(RelayTest, AFrameThatADeadDeviceCannotTakeIsTheNextOnes) {
  Run();
  ASSERT_EQ(shutdown(device.get(), SHUT_RDWR), 0);
  Write(program, WithLength(frame));
  relay.Serve(0, POLLIN);
  EXPECT_EQ(relay.device(), -1);
  UniqueFd next;
  relay.SetDevice(Pair(SOCK_SEQPACKET, next));
  Run();
  EXPECT_EQ(lost.to_device, 0u);
  EXPECT_EQ(Read(next), kHeader + frame);
}

TEST_F(RelayTest, PassesFramesBothWays) {
  Write(device, kHeader + frame);
  Write(device, kHeader + longest);
  Run();
  EXPECT_EQ(Read(program), WithLength(frame) + WithLength(longest));
  Write(program, WithLength(longest) + WithLength(frame));
  Run();
  EXPECT_EQ(Read(device), kHeader + longest);
  EXPECT_EQ(Read(device), kHeader + frame);
  EXPECT_EQ(Read(device), "nothing");
}

TEST_F(RelayTest, FramesMayComeByteByByte) {
  const std::string bytes = WithLength(frame) + WithLength(frame);
  for (const char byte : bytes) {
    Write(program, std::string(1, byte));
    Run();
  }
  EXPECT_EQ(Read(device), kHeader + frame);
  EXPECT_EQ(Read(device), kHeader + frame);
}

TEST_F(RelayTest, WhatIsNoFrameOfTheDeviceIsDropped) {
  Write(device, kHeader + std::string(13, 's'));
  Write(device, "short");
  Write(device, kHeader + longest + "x");
  Write(device, kHeader + frame);
  Run();
  EXPECT_EQ(Read(program), WithLength(frame));
  EXPECT_EQ(lost.from_device, 3u);
  EXPECT_EQ(lost.to_device, 0u);
}

TEST_F(RelayTest, ANewProgramLearnsWhereTheGuestIs) {
  std::string arp(42, 'a');
  arp[12] = 8;
  arp[13] = 6;
  Write(device, kHeader + arp);
  Write(device, kHeader + frame);
  Run();
  EXPECT_EQ(Read(program), WithLength(arp) + WithLength(frame));
  relay.SetProgram(Pair(SOCK_STREAM, program));
  EXPECT_EQ(Read(program), WithLength(arp));
  Write(device, kHeader + frame);
  Run();
  EXPECT_EQ(Read(program), WithLength(frame));
}

TEST_F(RelayTest, WhatIsLostIsCounted) {
  // With the device's end, what it had sent and the program had no room for.
  const std::string packet = kHeader + longest;
  while (write(device.get(), packet.data(), packet.size()) > 0) Run();
  while (write(device.get(), kHeader.data(), kHeader.size()) > 0) Run();
  UniqueFd successor;
  relay.SetDevice(Pair(SOCK_SEQPACKET, successor));
  EXPECT_GT(lost.from_device, 0u);
  const uint64_t before = lost.from_device;
  // With the program's end, half a frame to it, and whole ones from it.
  while (send(relay.device(), frame.data(), frame.size(), MSG_DONTWAIT) > 0) {
  }
  Write(program, WithLength(frame) + WithLength(frame) + WithLength(frame).substr(0, 30));
  relay.Serve(0, POLLIN);
  program.reset();
  Run();
  EXPECT_EQ(relay.program(), -1);
  EXPECT_EQ(lost.to_device, 2u);
  EXPECT_EQ(lost.from_device, before + 1);
  // Without a program.
  Write(successor, kHeader + frame);
  Run();
  EXPECT_EQ(lost.from_device, before + 2);
}

TEST_F(RelayTest, ASideThatTakesNothingHoldsTheOtherUp) {
  int written = 0;
  for (int i = 0; i < 1000; ++i) {
    if (write(program.get(), WithLength(frame).data(), frame.size() + 4) < 0) break;
    ++written;
    Run();
  }
  for (int i = 0; i < 10'000; ++i) {
    if (write(program.get(), WithLength(frame).data(), frame.size() + 4) < 0) break;
    ++written;
    Run();
  }
  int read = 0;
  for (; read < written; ++read) {
    if (Read(device) != kHeader + frame) {
      Run();
      if (Read(device) != kHeader + frame) break;
    }
  }
  EXPECT_EQ(read, written) << "frames are lost";

  int sent = 0;
  const std::string packet = kHeader + longest;
  while (sent < 1000 && write(device.get(), packet.data(), packet.size()) > 0) {
    ++sent;
    Run();
  }
  EXPECT_LT(sent, 1000);
  std::string got;
  for (int i = 0; i < 1000; ++i) {
    const std::string part = Read(program);
    if (part == "nothing") break;
    got += part;
    Run();
  }
  EXPECT_EQ(got.size(), static_cast<size_t>(sent) * (longest.size() + 4));
}

TEST_F(RelayTest, AFullBufferIsNotTheProgramsEnd) {
  // The device takes nothing, though poll(2) may say that it would.
  while (send(relay.device(), frame.data(), frame.size(), MSG_DONTWAIT) > 0) {
  }
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 3; ++j) {
      const std::string bytes = WithLength(longest);
      (void)!write(program.get(), bytes.data(), bytes.size());
    }
    relay.Serve(POLLOUT, POLLIN);
    ASSERT_GE(relay.program(), 0) << i;
  }
  UniqueFd successor;
  relay.SetDevice(Pair(SOCK_SEQPACKET, successor));
  Run();
  EXPECT_EQ(Read(successor), kHeader + longest);
}

TEST_F(RelayTest, AProgramThatLiesOrEndsIsLeftAndAnotherOneBeginsAfresh) {
  for (const char* const length : {"\0\0\0\x0d", "\0\1\0\x12", "\xff\xff\xff\xff"}) {
    Write(program, std::string(length, 4));
    Run();
    EXPECT_EQ(relay.program(), -1);
    Write(device, kHeader + frame);  // to nobody
    Run();
    relay.SetProgram(Pair(SOCK_STREAM, program));
  }
  Write(program, WithLength(frame).substr(0, 20));
  Run();
  program.reset();
  Run();
  EXPECT_EQ(relay.program(), -1);
  relay.SetProgram(Pair(SOCK_STREAM, program));
  Write(program, WithLength(frame));
  Run();
  EXPECT_EQ(Read(device), kHeader + frame);
  EXPECT_EQ(Read(device), "nothing");
  Write(device, kHeader + frame);
  Run();
  EXPECT_EQ(Read(program), WithLength(frame));
}

TEST_F(RelayTest, ADevicesSuccessorGetsASocketOfItsOwn) {
  Write(device, kHeader + frame);
  UniqueFd successor;
  relay.SetDevice(Pair(SOCK_SEQPACKET, successor));
  EXPECT_EQ(Read(program), WithLength(frame)) << "what was sent last is lost";
  Write(program, WithLength(frame));
  Run();
  EXPECT_EQ(Read(successor), kHeader + frame);
  EXPECT_EQ(Read(device), "");
}

TEST_F(RelayTest, ADeviceThatEndsItsStreamMakesNothingSpin) {
  EXPECT_EQ(shutdown(device.get(), SHUT_WR), 0);
  Run();
  EXPECT_EQ(relay.device(), -1);
  UniqueFd successor;
  relay.SetDevice(Pair(SOCK_SEQPACKET, successor));
  successor.reset();
  program.reset();
  Run();
  EXPECT_EQ(relay.device(), -1);
}

}  // namespace
}  // namespace bulkhead::vmm
