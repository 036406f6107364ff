#include "devices/uart16550/uart_device.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "devices/host/testing/fake_services.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr uint8_t kData = 0, kIer = 1, kIir = 2, kFcr = 2, kMcr = 4, kLsr = 5, kScr = 7;
constexpr uint8_t kRts = 2;

// Counts edges of the line, and refuses to watch files, as epoll does.
class LineServices : public FakeServices {
 public:
  void SetIntx(bool level) override {
    if (level && !intx()) ++edges;
    FakeServices::SetIntx(level);
  }
  absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) override {
    struct stat info;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
      return absl::PermissionDeniedError("epoll_ctl: Operation not permitted");
    }
    return FakeServices::Watch(fd, std::move(on_readable));
  }
  int edges = 0;
};

struct Ends {
  UniqueFd device;
  UniqueFd other;
};

Ends MakePipeFromDevice() {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {UniqueFd(fds[1]), UniqueFd(fds[0])};
}
Ends MakePipeToDevice() {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}
Ends MakeSocketPair() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}
Ends MakeTerminal() {
  int other = -1;
  int device = -1;
  struct termios raw = {};
  cfmakeraw(&raw);
  EXPECT_EQ(openpty(&other, &device, nullptr, &raw, nullptr), 0);
  return {UniqueFd(device), UniqueFd(other)};
}

// What is there to read now, at most `limit` bytes. Does not block.
std::string ReadAvailable(int fd, size_t limit = 1 << 20) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  std::string text;
  char buffer[4096];
  while (text.size() < limit) {
    const ssize_t count = read(fd, buffer, std::min(sizeof(buffer), limit - text.size()));
    if (count <= 0) break;
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

void WriteAll(int fd, const std::string& text) {
  ASSERT_EQ(write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

class UartDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { signal(SIGPIPE, SIG_IGN); }

  void Start(UniqueFd output, UniqueFd input = UniqueFd(), const UartOptions& options = {}) {
    services_.AddResource("output", std::move(output));
    if (input.ok()) services_.AddResource("input", std::move(input));
    device_ = std::make_unique<UartDevice>(options);
    const absl::Status status = device_->Start(services_);
    ASSERT_TRUE(status.ok()) << status;
  }
  uint8_t Read(uint8_t offset) { return static_cast<uint8_t>(device_->Read(0, offset, 1)); }
  void Write(uint8_t offset, uint8_t value) { device_->Write(0, offset, 1, value); }
  void Transmit(const std::string& text) {
    for (const char c : text) Write(kData, static_cast<uint8_t>(c));
  }
  bool TransmitterReady() { return (Read(kLsr) & 0x20) != 0; }
  // Sends distinguishable bytes for as long as the device takes them.
  std::string FillOutput() {
    std::string sent;
    while (TransmitterReady() && sent.size() < 4 << 20) {
      const char c = static_cast<char>('a' + sent.size() % 26);
      Transmit(std::string(1, c));
      sent.push_back(c);
    }
    EXPECT_FALSE(TransmitterReady()) << "the output never filled up";
    return sent;
  }
  std::string ReceiveAll() {
    std::string received;
    while ((Read(kLsr) & 1) != 0) received.push_back(static_cast<char>(Read(kData)));
    return received;
  }

  LineServices services_;
  std::unique_ptr<UartDevice> device_;
};

TEST_F(UartDeviceTest, DescribesAnIsaSerialPort) {
  const v1::PciInfo info = UartDevice({}).Describe();
  EXPECT_EQ(info.platform().acpi_hid(), "PNP0501");
  ASSERT_EQ(info.platform().port_ranges_size(), 1);
  EXPECT_EQ(info.platform().port_ranges(0).base(), 0x3f8u);
  EXPECT_EQ(info.platform().port_ranges(0).size(), 8u);
  EXPECT_EQ(info.platform().irq(), 4u);
  ASSERT_EQ(info.required_resources_size(), 1);
  EXPECT_EQ(info.required_resources(0), "output");
  const UartOptions second = {.port = 0x2f8, .irq = 3};
  EXPECT_EQ(UartDevice(second).Describe().platform().port_ranges(0).base(), 0x2f8u);
}

TEST_F(UartDeviceTest, WithoutAnOutputItDoesNotStart) {
  UartDevice device({});
  EXPECT_EQ(device.Start(services_).code(), absl::StatusCode::kNotFound);
}

TEST_F(UartDeviceTest, WhatTheGuestSendsComesOut) {
  const Ends ends[] = {MakePipeFromDevice(), MakeSocketPair(), MakeTerminal()};
  for (const Ends& end : ends) {
    Start(UniqueFd(dup(end.device.get())));
    Transmit("hello\r\n");
    EXPECT_EQ(ReadAvailable(end.other.get()), "hello\r\n");
    device_.reset();
    services_ = LineServices();
  }
}

TEST_F(UartDeviceTest, AWideAccessIsSeveralByteAccesses) {
  Ends output = MakePipeFromDevice();
  Start(std::move(output.device));
  device_->Write(0, 3, 2, 0x0b03);  // LCR, MCR
  EXPECT_EQ(device_->Read(0, 3, 2), 0x0b03u);
  Write(kScr, 0x5a);
  EXPECT_EQ(device_->Read(0, 4, 4), 0x5ab0600bu) << "MCR, LSR, MSR, SCR";
}

TEST_F(UartDeviceTest, ASlowReaderMakesTheTransmitterFullAndNotTheDeviceBlocked) {
  for (const bool terminal : {false, true}) {
    Ends output = terminal ? MakeTerminal() : MakePipeFromDevice();
    Start(std::move(output.device));
    Write(kIer, 2);
    const std::string sent = FillOutput();
    Read(kIir);
    EXPECT_FALSE(services_.intx());

    std::string received = ReadAvailable(output.other.get());
    EXPECT_TRUE(services_.RunUntil([&] {
      received += ReadAvailable(output.other.get());
      return received.size() == sent.size();
    })) << received.size()
        << " of " << sent.size();
    EXPECT_TRUE(received == sent) << "in order, without loss";
    EXPECT_TRUE(TransmitterReady());
    EXPECT_TRUE(services_.intx()) << "the driver is told to go on";
    EXPECT_EQ(services_.RunWatches(0), 0) << "the wait has ended";
    device_.reset();
    services_ = LineServices();
  }
}

TEST_F(UartDeviceTest, AtItsEndItSendsWhatASlowReaderHadNotTaken) {
  Ends output = MakePipeFromDevice();
  Start(std::move(output.device));
  const std::string sent = FillOutput();
  std::string received = ReadAvailable(output.other.get());
  EXPECT_LT(received.size(), sent.size());
  device_.reset();
  received += ReadAvailable(output.other.get());
  EXPECT_TRUE(received == sent) << received.size() << " of " << sent.size();
}

TEST_F(UartDeviceTest, AtItsEndItDoesNotWaitLongForAReaderThatNeverReads) {
  Ends output = MakePipeFromDevice();
  Start(std::move(output.device));
  FillOutput();
  const absl::Time start = absl::Now();
  device_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(UartDeviceTest, TheOutputsModeIsLeftAlone) {
  Ends output = MakePipeFromDevice();
  const UniqueFd shared(dup(output.device.get()));
  Start(std::move(output.device));
  FillOutput();
  EXPECT_EQ(fcntl(shared.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(UartDeviceTest, WithoutAReaderOutputIsDropped) {
  Ends output = MakePipeFromDevice();
  output.other.reset();
  Start(std::move(output.device));
  Transmit(std::string(10'000, 'x'));
  EXPECT_EQ(Read(kLsr), 0x60);
}

TEST_F(UartDeviceTest, AnOutputFileGrowsToItsLimitOnly) {
  UniqueFd file = *CreateMemfd("log", 0);
  const UniqueFd other(dup(file.get()));
  Start(std::move(file), UniqueFd(), {.max_file_bytes = 5});
  Transmit("1234567890");
  EXPECT_EQ(Read(kLsr), 0x60) << "the guest goes on";
  struct stat info;
  ASSERT_EQ(fstat(other.get(), &info), 0);
  EXPECT_EQ(info.st_size, 5);
}

TEST_F(UartDeviceTest, InputWaitsUntilTheGuestIsReadyAndIsNotLostWhenItProbes) {
  Ends output = MakePipeFromDevice();
  Ends input = MakePipeToDevice();
  const int input_fd = input.device.get();
  Start(std::move(output.device), std::move(input.device));
  WriteAll(input.other.get(), "typed ahead");
  EXPECT_FALSE(services_.IsWatched(input_fd));
  Write(kFcr, 7);
  Read(kData);
  Write(kIer, 1);
  Write(kMcr, kRts);
  EXPECT_TRUE(services_.RunUntil([&] { return services_.intx(); }));
  EXPECT_EQ(ReceiveAll(), "typed ahead");
  EXPECT_FALSE(services_.intx());
}

TEST_F(UartDeviceTest, InputWaitsWhileTheFifoIsFull) {
  Ends output = MakePipeFromDevice();
  Ends input = MakePipeToDevice();
  const int input_fd = input.device.get();
  Start(std::move(output.device), std::move(input.device));
  Write(kFcr, 1);
  Write(kMcr, kRts);
  std::string sent;
  for (int i = 0; i < 1000; ++i) sent.push_back(static_cast<char>('a' + i % 26));
  WriteAll(input.other.get(), sent);
  EXPECT_TRUE(services_.RunUntil([&] { return !services_.IsWatched(input_fd); }));

  std::string received;
  EXPECT_TRUE(services_.RunUntil([&] {
    received += ReceiveAll();
    return received.size() == sent.size();
  }));
  EXPECT_EQ(received, sent);
  EXPECT_TRUE(services_.IsWatched(input_fd));
}

TEST_F(UartDeviceTest, TheEndOfInputEndsItsWatch) {
  Ends output = MakePipeFromDevice();
  Ends input = MakePipeToDevice();
  const int input_fd = input.device.get();
  Start(std::move(output.device), std::move(input.device));
  Write(kFcr, 1);
  Write(kMcr, kRts);
  WriteAll(input.other.get(), "bye");
  input.other.reset();
  EXPECT_TRUE(services_.RunUntil([&] { return !services_.IsWatched(input_fd); }));
  EXPECT_EQ(ReceiveAll(), "bye");
  Transmit("still here");
  EXPECT_EQ(ReadAvailable(output.other.get()), "still here");
}

TEST_F(UartDeviceTest, InputFromAFileIsReadAsTheGuestTakesIt) {
  Ends output = MakePipeFromDevice();
  UniqueFd file = *CreateMemfd("script", 0);
  const std::string script(100, 's');
  ASSERT_EQ(pwrite(file.get(), script.data(), script.size(), 0), 100);
  Start(std::move(output.device), std::move(file));
  Write(kFcr, 1);
  EXPECT_EQ(Read(kLsr), 0x60);
  Write(kMcr, kRts);
  EXPECT_EQ(ReceiveAll(), script);
  EXPECT_EQ(Read(kLsr), 0x60);
}

TEST_F(UartDeviceTest, EachInterruptIsAnEdgeOfTheLine) {
  Ends output = MakePipeFromDevice();
  Ends input = MakePipeToDevice();
  Start(std::move(output.device), std::move(input.device));
  Write(kFcr, 1);
  Write(kMcr, kRts);
  Write(kIer, 3);
  EXPECT_EQ(services_.edges, 1) << "transmitter empty";
  EXPECT_EQ(Read(kIir), 0xc2);
  EXPECT_FALSE(services_.intx());
  Transmit("a");
  EXPECT_EQ(services_.edges, 2);
  WriteAll(input.other.get(), "b");
  EXPECT_TRUE(services_.RunUntil([&] { return services_.edges == 3; })) << "a second cause";
  EXPECT_EQ(Read(kData), 'b');
  EXPECT_EQ(services_.edges, 4) << "one dealt with, one left";
  EXPECT_EQ(Read(kIir), 0xc2);
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(services_.edges, 4);
}

}  // namespace
}  // namespace bulkhead::devices::uart16550
