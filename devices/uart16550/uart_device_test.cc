#include "devices/uart16550/uart_device.h"

#include <signal.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "devices/host/testing/fake_services.h"
#include "devices/uart16550/testing/fake_console.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr uint8_t kData = 0, kIer = 1, kIir = 2, kFcr = 2, kMcr = 4, kLsr = 5, kMsr = 6, kScr = 7;
constexpr uint8_t kRts = 2;

// Counts edges of the line and changes of the state.
class LineServices : public FakeServices {
 public:
  void SetIntx(bool level) override {
    if (level && !intx()) ++edges;
    FakeServices::SetIntx(level);
  }
  void StateChanged() override { ++changes; }
  int edges = 0;
  int changes = 0;
};

class UartDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    Start();
  }
  // A new process; of the state that was saved, if there is one.
  void Start(const std::vector<uint8_t>& state = {}) {
    device_.reset();
    services_ = LineServices();
    UniqueFd socket = console_.Connect();
    socket_ = socket.get();
    services_.AddResource("console", std::move(socket));
    device_ = std::make_unique<UartDevice>(UartOptions());
    ASSERT_TRUE(device_->Start(services_).ok());
    if (!state.empty()) {
      const absl::Status status = device_->Restore(state);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  std::vector<uint8_t> Save() const {
    std::vector<uint8_t> state(device_->Describe().saved_state_bytes());
    state.resize(device_->Save(absl::MakeSpan(state)));
    return state;
  }
  uint8_t Read(uint8_t offset) { return static_cast<uint8_t>(device_->Read(0, offset, 1)); }
  void Write(uint8_t offset, uint8_t value) { device_->Write(0, offset, 1, value); }
  void Transmit(const std::string& text) {
    for (const char c : text) Write(kData, static_cast<uint8_t>(c));
  }
  bool TransmitterReady() { return (Read(kLsr) & 0x20) != 0; }
  void WantInput() {
    Write(kFcr, 7);
    Write(kMcr, kRts);
  }
  // Both sides do what they can, several times.
  void Exchange() {
    for (int i = 0; i < 20; ++i) {
      console_.Receive();
      console_.Send();
      services_.RunWatches(0);
    }
    console_.Receive();
  }
  // Sends distinguishable bytes for as long as the device takes them.
  std::string FillOutput() {
    Transmit("!");
    Exchange();
    std::string sent = "!";
    while (TransmitterReady() && sent.size() < 4 << 20) {
      sent.push_back(static_cast<char>('a' + sent.size() % 26));
      Transmit(sent.substr(sent.size() - 1));
    }
    EXPECT_FALSE(TransmitterReady()) << "the output never filled up";
    return sent;
  }
  std::string ReceiveAll() {
    std::string received;
    while ((Read(kLsr) & 1) != 0) received.push_back(static_cast<char>(Read(kData)));
    return received;
  }

  FakeConsole console_;
  LineServices services_;
  int socket_ = -1;
  std::unique_ptr<UartDevice> device_;
};

TEST_F(UartDeviceTest, DescribesAnIsaSerialPort) {
  const v1::DeviceInfo info = UartDevice({}).Describe();
  EXPECT_EQ(info.platform().acpi_hid(), "PNP0501");
  ASSERT_EQ(info.platform().port_ranges_size(), 1);
  EXPECT_EQ(info.platform().port_ranges(0).base(), 0x3f8u);
  EXPECT_EQ(info.platform().port_ranges(0).size(), 8u);
  EXPECT_EQ(info.platform().irq(), 4u);
  ASSERT_EQ(info.required_resources_size(), 1);
  EXPECT_EQ(info.required_resources(0), "console");
  const UartOptions second = {.port = 0x2f8, .irq = 3};
  EXPECT_EQ(UartDevice(second).Describe().platform().port_ranges(0).base(), 0x2f8u);
}

TEST_F(UartDeviceTest, WithoutAConsoleItDoesNotStart) {
  UartDevice device({});
  EXPECT_EQ(device.Start(services_).code(), absl::StatusCode::kNotFound);
}

TEST_F(UartDeviceTest, WhatTheGuestSendsComesOut) {
  Transmit("hello");
  Exchange();
  EXPECT_EQ(console_.output(), "hello");
  Transmit(", world\r\n");
  console_.Receive();
  EXPECT_EQ(console_.output(), "hello, world\r\n") << "at once";
}

TEST_F(UartDeviceTest, AWideAccessIsSeveralByteAccesses) {
  device_->Write(0, 3, 2, 0x0b03);  // LCR, MCR
  EXPECT_EQ(device_->Read(0, 3, 2), 0x0b03u);
  Write(kScr, 0x5a);
  EXPECT_EQ(device_->Read(0, 4, 4), 0x5ab0600bu) << "MCR, LSR, MSR, SCR";
}

TEST_F(UartDeviceTest, ASlowReaderMakesTheTransmitterFullAndNotTheDeviceBlocked) {
  Write(kIer, 2);
  const std::string sent = FillOutput();
  Read(kIir);
  EXPECT_FALSE(services_.intx());
  EXPECT_TRUE(services_.RunUntil([&] {
    console_.Receive();
    return console_.output().size() == sent.size();
  })) << console_.output().size()
      << " of " << sent.size();
  EXPECT_TRUE(console_.output() == sent) << "in order, without loss";
  EXPECT_TRUE(TransmitterReady());
  EXPECT_TRUE(services_.RunUntil([&] { return services_.intx(); }))
      << "the driver is told to go on, once its burst has been followed by a pause";
  EXPECT_EQ(services_.RunWatches(0), 0) << "the wait has ended";
}

TEST_F(UartDeviceTest, AtItsEndItSendsWhatASlowReaderHadNotTaken) {
  const std::string sent = FillOutput();
  console_.Receive();
  EXPECT_LT(console_.output().size(), sent.size());
  device_.reset();
  console_.Receive();
  EXPECT_TRUE(console_.output() == sent) << console_.output().size() << " of " << sent.size();
}

TEST_F(UartDeviceTest, AtItsEndItDoesNotWaitLongForAReaderThatNeverReads) {
  FillOutput();
  const absl::Time start = absl::Now();
  device_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(UartDeviceTest, AtRestItSendsNothingAtItsEndAndItsSuccessorSendsItAll) {
  const std::string sent = FillOutput();
  device_->SetServing(false);
  const std::vector<uint8_t> state = Save();
  console_.Receive();
  const size_t before = console_.output().size();
  EXPECT_EQ(services_.RunWatches(0), 0);
  Start(state);
  EXPECT_EQ(console_.output().size(), before);
  Exchange();
  EXPECT_TRUE(console_.output() == sent) << console_.output().size() << " of " << sent.size();
}

TEST_F(UartDeviceTest, ServingAgainItGoesOn) {
  WantInput();
  Exchange();
  device_->SetServing(false);
  EXPECT_TRUE(device_->at_rest());
  Transmit("out");
  console_.Type("in");
  Exchange();
  EXPECT_EQ(console_.output(), "");
  EXPECT_EQ(Read(kLsr), 0x60);
  device_->SetServing(true);
  Exchange();
  EXPECT_EQ(console_.output(), "out");
  EXPECT_EQ(ReceiveAll(), "in");
}

TEST_F(UartDeviceTest, WithoutAReaderOutputIsDropped) {
  Transmit("!");
  Exchange();
  console_.ClosesForEver();
  Transmit(std::string(10'000, 'x'));
  EXPECT_EQ(Read(kLsr), 0x60);
  WantInput();
  services_.RunWatches(0);
  EXPECT_EQ(services_.RunWatches(0), 0) << "its end is told once";
}

TEST_F(UartDeviceTest, InputWaitsUntilTheGuestIsReadyAndIsNotLostWhenItProbes) {
  console_.Type("typed ahead");
  Read(kScr);
  Exchange();
  EXPECT_FALSE(services_.IsWatched(socket_));
  Write(kFcr, 7);
  Read(kData);
  Write(kIer, 1);
  Write(kMcr, kRts);
  Exchange();
  EXPECT_TRUE(services_.intx());
  EXPECT_EQ(ReceiveAll(), "typed ahead");
  EXPECT_FALSE(services_.intx());
}

TEST_F(UartDeviceTest, InputComesToADriverOfInterruptsThatNeverAssertsRts) {
  console_.Type("keys");
  Write(kFcr, 7);
  Write(kMcr, 0);
  Write(kIer, 1);
  Exchange();
  std::string received;
  EXPECT_TRUE(services_.RunUntil([&] {
    console_.Receive();
    console_.Send();
    if (services_.intx()) received += ReceiveAll();
    return received.size() == 4;
  }));
  EXPECT_EQ(received, "keys");
  Write(kMcr, kRts);
  Write(kMcr, 0);
  console_.Type("more");
  Exchange();
  EXPECT_EQ(ReceiveAll(), "") << "RTS was dropped";
}

TEST_F(UartDeviceTest, InputComesToADriverThatPollsAndNeverAssertsRts) {
  console_.Type("keys");
  std::string received;
  EXPECT_TRUE(services_.RunUntil([&] {
    console_.Receive();
    console_.Send();
    for (uint32_t i = 0; i < UartRegisters::kInputPolls; ++i) received += ReceiveAll();
    return received.size() == 4;
  }));
  EXPECT_EQ(received, "keys");
}

TEST_F(UartDeviceTest, InputWaitsWhileTheFifoIsFull) {
  WantInput();
  std::string sent;
  for (int i = 0; i < 1000; ++i) sent.push_back(static_cast<char>('a' + i % 26));
  console_.Type(sent);
  Exchange();
  EXPECT_FALSE(services_.IsWatched(socket_));
  std::string received;
  EXPECT_TRUE(services_.RunUntil([&] {
    received += ReceiveAll();
    return received.size() == sent.size();
  }));
  EXPECT_EQ(received, sent);
  EXPECT_TRUE(services_.IsWatched(socket_));
}

TEST_F(UartDeviceTest, InputIsAcknowledgedOnceItIsSaved) {
  WantInput();
  Exchange();
  console_.Type("keys");
  console_.Send();
  const int changes = services_.changes;
  services_.RunWatches(0);
  EXPECT_EQ(services_.changes, changes + 1) << "to be saved now";
  console_.Receive();
  EXPECT_EQ(console_.acknowledged(), 0u);
  Exchange();
  EXPECT_EQ(console_.acknowledged(), 4u) << "although the guest has not read it";
}

TEST_F(UartDeviceTest, EachInterruptIsAnEdgeOfTheLine) {
  Write(kFcr, 1);
  Write(kMcr, kRts);
  Write(kIer, 3);
  Exchange();
  EXPECT_EQ(services_.edges, 1) << "transmitter empty";
  EXPECT_EQ(Read(kIir), 0xc2);
  EXPECT_FALSE(services_.intx());
  Transmit("a");
  EXPECT_EQ(services_.edges, 2);
  console_.Type("b");
  Exchange();
  EXPECT_EQ(services_.edges, 3) << "a second cause";
  EXPECT_EQ(Read(kData), 'b');
  EXPECT_EQ(services_.edges, 4) << "one dealt with, one left";
  EXPECT_EQ(Read(kIir), 0xc2);
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(services_.edges, 4);
}

TEST_F(UartDeviceTest, ASuccessorIsWhatItsPredecessorWas) {
  WantInput();
  Write(3, 0x03);
  Write(kScr, 0x5a);
  Write(kIer, 5);
  Transmit("sent");
  console_.Type("typed");
  Exchange();
  EXPECT_TRUE(services_.intx());
  Start(Save());
  EXPECT_TRUE(services_.intx()) << "what is pending interrupts again";
  EXPECT_EQ(Read(3), 0x03);
  EXPECT_EQ(Read(kScr), 0x5a);
  EXPECT_EQ(Read(kIer), 5);
  EXPECT_EQ(Read(kMcr), kRts);
  EXPECT_EQ(ReceiveAll(), "typed");
  Exchange();
  EXPECT_EQ(console_.output(), "sent");
  EXPECT_EQ(console_.acknowledged(), 5u);
}

TEST_F(UartDeviceTest, WhatCannotBeAStateIsRefused) {
  Write(kIer, 1);
  const std::vector<uint8_t> state = Save();
  UartDevice device({});
  services_.AddResource("console", console_.Connect());
  ASSERT_TRUE(device.Start(services_).ok());
  EXPECT_FALSE(device.Restore({}).ok());
  EXPECT_FALSE(device.Restore(absl::MakeConstSpan(state).first(state.size() - 1)).ok());
  std::vector<uint8_t> too_long = state;
  too_long.resize(UartDevice({}).Describe().saved_state_bytes() + 1);
  EXPECT_FALSE(device.Restore(too_long).ok());
  std::vector<uint8_t> impossible = state;
  impossible[24] = 0x80;  // of IER
  EXPECT_FALSE(device.Restore(impossible).ok());
}

TEST_F(UartDeviceTest, WhatChangesNothingIsNotSaved) {
  WantInput();
  Exchange();
  const int changes = services_.changes;
  for (const uint8_t offset : {kData, kIer, kIir, kLsr, kMsr, kScr}) Read(offset);
  Exchange();
  EXPECT_EQ(services_.changes, changes);
}

TEST_F(UartDeviceTest, ResetLeavesTheStreamsAlone) {
  WantInput();
  Write(kIer, 3);
  console_.Type("old");
  Exchange();
  std::string sent = FillOutput();
  const int changes = services_.changes;
  device_->Reset();
  EXPECT_GT(services_.changes, changes);
  EXPECT_FALSE(services_.intx());
  EXPECT_EQ(Read(kIer), 0);
  EXPECT_EQ(Read(kMcr), 0);
  Exchange();
  EXPECT_TRUE(console_.output() == sent) << "it had left the guest";
  EXPECT_EQ(Read(kLsr), 0x60);
  console_.Type("new");
  WantInput();
  Exchange();
  EXPECT_EQ(ReceiveAll(), "new");
}

TEST_F(UartDeviceTest, ItsMetricsCountBytes) {
  WantInput();
  Transmit("12345");
  console_.Type("123");
  Exchange();
  v1::DeviceMetrics metrics;
  device_->AppendMetrics(metrics);
  ASSERT_GE(metrics.metrics_size(), 2);
  EXPECT_EQ(metrics.metrics(0).name(), "transmitted_bytes_total");
  EXPECT_EQ(metrics.metrics(0).value(), 5);
  EXPECT_EQ(metrics.metrics(1).value(), 3);
}

}  // namespace
}  // namespace bulkhead::devices::uart16550
