#include "devices/uart16550/uart_registers.h"

#include <array>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr uint8_t kRbr = 0, kThr = 0, kIer = 1, kIir = 2, kFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5,
                  kMsr = 6, kScr = 7;
constexpr uint8_t kIerReceive = 1, kIerTransmit = 2, kIerLineStatus = 4, kIerModem = 8;
constexpr uint8_t kRts = 2, kLoopback = 0x10;
constexpr uint8_t kNoInterrupt = 1, kIirTransmit = 2;

class UartRegistersTest : public ::testing::Test {
 protected:
  void Receive(const std::string& text) {
    ASSERT_LE(text.size(), uart_.ReceiveRoom());
    uart_.Receive(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  void Transmit(const std::string& text) {
    for (const char c : text) uart_.Write(kThr, static_cast<uint8_t>(c));
  }
  std::string TakeTransmitted() {
    std::string text;
    while (!uart_.Transmitted().empty()) {
      const absl::Span<const uint8_t> bytes = uart_.Transmitted();
      text.append(bytes.begin(), bytes.end());
      uart_.ConsumeTransmitted(bytes.size());
    }
    return text;
  }
  void FillTransmitter() {
    while ((uart_.Read(kLsr) & 0x20) != 0) uart_.Write(kThr, '.');
  }

  UartRegisters uart_;
};

struct Access {
  enum Kind { kWrite, kRead } kind;
  uint8_t offset;
  uint8_t value;        // written, or expected
  uint8_t mask = 0xff;  // of what is expected
};

struct AccessSequence {
  const char* name;
  std::vector<Access> accesses;
};

void PrintTo(const AccessSequence& sequence, std::ostream* out) { *out << sequence.name; }

class AccessSequenceTest : public ::testing::TestWithParam<AccessSequence> {};

TEST_P(AccessSequenceTest, AnswersAsA16550A) {
  UartRegisters uart;
  int step = 0;
  for (const Access& access : GetParam().accesses) {
    ++step;
    if (access.kind == Access::kWrite) {
      uart.Write(access.offset, access.value);
    } else {
      EXPECT_EQ(uart.Read(access.offset) & access.mask, access.value) << "step " << step;
    }
  }
}

constexpr auto W = Access::kWrite;
constexpr auto R = Access::kRead;

// The accesses by which Linux's 8250 driver tells chips apart, in its order (autoconfig).
INSTANTIATE_TEST_SUITE_P(
    Linux8250, AccessSequenceTest,
    ::testing::Values(
        AccessSequence{"InterruptEnableKeepsItsFourBits",
                       {{W, kIer, 0},
                        {R, kIer, 0, 0x0f},
                        {W, kIer, 0x0f},
                        {R, kIer, 0x0f, 0x0f},
                        {W, kIer, 0xff},
                        {R, kIer, 0x0f}}},
        AccessSequence{"LoopbackShowsModemControlInModemStatus",
                       {{W, kMcr, kLoopback | 0x0a}, {R, kMsr, 0x90, 0xf0}, {W, kMcr, 0}}},
        AccessSequence{"FifoIdentificationIsThatOfA16550A",
                       {{W, kLcr, 0xbf},
                        {W, kFcr, 0},  // an extended register elsewhere
                        {W, kLcr, 0},
                        {W, kFcr, 1},
                        {R, kIir, 0xc0, 0xc0}}},
        AccessSequence{"ExtendedFeatureRegisterIsAbsent",
                       {{W, kFcr, 1},
                        {W, kLcr, 0x80},
                        {R, kIir, 0xc1},
                        {W, kLcr, 0xbf},
                        {R, kIir, 0xc1},
                        {W, kLcr, 0}}},
        AccessSequence{"NotANs16550D",  // MCR bit 4 does not show at offset 2 of bank 2
                       {{W, kFcr, 1},
                        {W, kLcr, 0},
                        {R, kMcr, 0, 0x10},
                        {W, kLcr, 0xe0},
                        {R, kIir, 0, 0x10},
                        {W, kLcr, 0},
                        {W, kMcr, 0x10},
                        {W, kLcr, 0xe0},
                        {R, kIir, 0, 0x10}}},
        AccessSequence{"NotA16750",  // no 64-byte FIFO
                       {{W, kLcr, 0},
                        {W, kFcr, 0x21},
                        {R, kIir, 6 << 5, 0xe0},
                        {W, kFcr, 1},
                        {W, kLcr, 0x80},
                        {W, kFcr, 0x21},
                        {R, kIir, 6 << 5, 0xe0}}},
        AccessSequence{"NotAnXScale",  // no UART unit enable bit
                       {{W, kIer, 0x40}, {R, kIer, 0, 0x40}}},
        AccessSequence{"StartsUpIdle",
                       {{W, kFcr, 1},
                        {W, kFcr, 7},
                        {W, kFcr, 0},
                        {R, kLsr, 0x60},
                        {R, kRbr, 0},
                        {R, kIir, 0x01},
                        {R, kMsr, 0xb0}}},
        AccessSequence{"TransmitterInterruptComesEachTimeItIsEnabled",  // the "THRE test"
                       {{W, kIer, kIerTransmit},
                        {R, kIir, kIirTransmit},
                        {R, kIir, kNoInterrupt},
                        {W, kIer, 0},
                        {W, kIer, kIerTransmit},
                        {R, kIir, kIirTransmit},
                        {W, kIer, 0},
                        {R, kIir, kNoInterrupt}}}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    DataSheet, AccessSequenceTest,
    ::testing::Values(AccessSequence{"ValuesAfterReset",
                                     {{R, kRbr, 0},
                                      {R, kIer, 0},
                                      {R, kIir, 1},
                                      {R, kLcr, 0},
                                      {R, kMcr, 0},
                                      {R, kLsr, 0x60},
                                      {R, kMsr, 0xb0}}},
                      AccessSequence{"ScratchKeepsAByte", {{W, kScr, 0xa5}, {R, kScr, 0xa5}}},
                      AccessSequence{"DivisorHidesDataAndInterruptEnable",
                                     {{W, kIer, 5},
                                      {W, kLcr, 0x83},
                                      {W, 0, 0x01},
                                      {W, 1, 0x02},
                                      {R, 0, 0x01},
                                      {R, 1, 0x02},
                                      {W, kLcr, 0x03},
                                      {R, kIer, 5},
                                      {R, kRbr, 0},
                                      {R, kLcr, 0x03}}},
                      AccessSequence{
                          "StatusRegistersAreReadOnly",
                          {{W, kLsr, 0xff}, {W, kMsr, 0xff}, {R, kLsr, 0x60}, {R, kMsr, 0xb0}}},
                      AccessSequence{"LoopedBackBytesAreReceivedInOrder",
                                     {{W, kFcr, 1},
                                      {W, kMcr, kLoopback},
                                      {W, kThr, 'a'},
                                      {W, kThr, 'b'},
                                      {R, kLsr, 0x61},
                                      {R, kRbr, 'a'},
                                      {R, kRbr, 'b'},
                                      {R, kLsr, 0x60}}},
                      AccessSequence{"WithoutFifosAnOverrunOverwritesTheBuffer",
                                     {{W, kMcr, kLoopback},
                                      {W, kThr, 'a'},
                                      {W, kThr, 'b'},
                                      {R, kLsr, 0x63},
                                      {R, kLsr, 0x61},  // reading it has cleared the overrun
                                      {R, kRbr, 'b'},
                                      {R, kLsr, 0x60}}},
                      AccessSequence{"ModemStatusTellsWhatHasChangedOnce",
                                     {{W, kMcr, kLoopback},
                                      {R, kMsr, 0x0b},  // CTS, DSR, DCD fell
                                      {R, kMsr, 0x00},
                                      {W, kMcr, kLoopback | 0x04},  // RI rises: no delta
                                      {R, kMsr, 0x40},
                                      {W, kMcr, kLoopback},
                                      {R, kMsr, 0x04}}}),  // its end is one
    [](const auto& info) { return info.param.name; });

TEST_F(UartRegistersTest, TransmitsAndIsReadyAgain) {
  Transmit("hello");
  EXPECT_EQ(uart_.Read(kLsr), 0x60);
  EXPECT_EQ(TakeTransmitted(), "hello");
}

TEST_F(UartRegistersTest, WithoutRtsNothingIsReceived) {
  EXPECT_EQ(uart_.ReceiveRoom(), 0u);
  uart_.Write(kMcr, kRts);
  EXPECT_EQ(uart_.ReceiveRoom(), 1u);
  uart_.Write(kFcr, 1);
  EXPECT_EQ(uart_.ReceiveRoom(), 16u);
  uart_.Write(kMcr, kRts | kLoopback);
  EXPECT_EQ(uart_.ReceiveRoom(), 0u) << "the line is cut";
}

TEST_F(UartRegistersTest, ADriverThatPollsWithoutRtsReceives) {
  uart_.Write(kMcr, 0);
  for (const uint8_t offset : {kLsr, kRbr}) {
    uart_.Reset();
    for (uint32_t i = 1; i < UartRegisters::kInputPolls; ++i) uart_.Read(offset);
    EXPECT_EQ(uart_.ReceiveRoom(), 0u) << "a driver that probes does as much";
    uart_.Read(offset);
    EXPECT_EQ(uart_.ReceiveRoom(), 1u);
  }
  uart_.Write(kMcr, kRts);
  EXPECT_EQ(uart_.ReceiveRoom(), 1u);
  uart_.Write(kMcr, 0);
  EXPECT_EQ(uart_.ReceiveRoom(), 0u) << "it knows of RTS";
}

TEST_F(UartRegistersTest, ADriverThatPollsForTheTransmitterDoesNotReceive) {
  for (uint32_t i = 0; i < 2 * UartRegisters::kInputPolls; ++i) {
    uart_.Read(kLsr);
    Transmit("x");
  }
  FillTransmitter();
  for (uint32_t i = 0; i < 2 * UartRegisters::kInputPolls; ++i) uart_.Read(kLsr);
  EXPECT_EQ(uart_.ReceiveRoom(), 0u);
}

TEST_F(UartRegistersTest, InLoopbackPollsAndRtsMeanNothing) {
  uart_.Write(kMcr, kLoopback | kRts);
  for (uint32_t i = 0; i < 2 * UartRegisters::kInputPolls; ++i) uart_.Read(kLsr);
  uart_.Write(kMcr, 0);
  EXPECT_EQ(uart_.ReceiveRoom(), 0u);
  EXPECT_FALSE(uart_.may_want_input_without_rts());
  uart_.Write(kIer, kIerReceive);
  EXPECT_TRUE(uart_.may_want_input_without_rts()) << "RTS was never on the wire";
}

TEST_F(UartRegistersTest, ADriverOfInterruptsWithoutRtsReceivesOnceRtsIsAssumed) {
  uart_.Write(kMcr, 0);
  EXPECT_FALSE(uart_.may_want_input_without_rts());
  uart_.Write(kIer, kIerReceive);
  EXPECT_TRUE(uart_.may_want_input_without_rts());
  EXPECT_EQ(uart_.ReceiveRoom(), 0u) << "it may be about to assert it";
  uart_.AssumeRts();
  EXPECT_FALSE(uart_.may_want_input_without_rts());
  Receive("x");
  EXPECT_TRUE(uart_.interrupt());
}

// As Linux's serial8250_interrupt: works until nothing is pending. How many bytes it has moved.
int RunHandler(UartRegisters& uart, const std::function<void()>& line) {
  int moved = 0;
  for (int pass = 0; pass < 1000; ++pass) {
    line();
    if ((uart.Read(kIir) & 1) != 0) return moved;
    while ((uart.Read(kLsr) & 1) != 0) {
      uart.Read(kRbr);
      ++moved;
      line();
    }
    uart.Read(kMsr);
    if ((uart.Read(kLsr) & 0x20) == 0 || (uart.Read(kIer) & kIerTransmit) == 0) continue;
    for (int i = 0; i < 16; ++i) {
      uart.Write(kThr, 'x');
      ++moved;
      line();
    }
  }
  return moved;
}

TEST_F(UartRegistersTest, AHandlerWhoseDataDoesNotRunOutEndsAllTheSame) {
  constexpr int kMost = UartRegisters::kMaxBurstBytes + 2 * UartRegisters::kFifoBytes;
  uart_.Write(kFcr, 7);
  uart_.Write(kMcr, kRts);
  const auto line = [&] {
    uart_.ConsumeTransmitted(uart_.Transmitted().size());
    if (uart_.ReceiveRoom() != 0) Receive("y");
  };
  for (const uint8_t causes : {kIerTransmit, kIerReceive}) {
    uart_.Write(kIer, 0);
    uart_.Write(kIer, causes);
    for (int run = 0; run < 5; ++run) {
      const int moved = RunHandler(uart_, line);
      EXPECT_GE(moved, UartRegisters::kFifoBytes) << int{causes};
      EXPECT_LE(moved, kMost) << int{causes} << " in run " << run;
      EXPECT_TRUE(uart_.is_quiet());
      EXPECT_FALSE(uart_.interrupt());
      EXPECT_FALSE(uart_.TakeInterruptEdge());
      uart_.EndQuiet();
      line();
      EXPECT_TRUE(uart_.TakeInterruptEdge()) << "and goes on";
    }
  }
}

TEST_F(UartRegistersTest, ADriverThatPollsIsNeverQuiet) {
  uart_.Write(kMcr, kRts);
  for (uint32_t i = 0; i < 3 * UartRegisters::kMaxBurstBytes; ++i) {
    Receive("x");
    ASSERT_EQ(uart_.Read(kLsr), 0x61);
    uart_.Read(kRbr);
    Transmit("y");
    TakeTransmitted();
  }
  EXPECT_FALSE(uart_.is_quiet());
}

TEST_F(UartRegistersTest, AHandlerThatFindsNothingPendingBeginsAnew) {
  uart_.Write(kIer, kIerTransmit);
  for (uint32_t i = 0; i < 3 * UartRegisters::kMaxBurstBytes; ++i) {
    uart_.Read(kIir);
    uart_.Read(kIir);
    Transmit("y");
    TakeTransmitted();
  }
  EXPECT_FALSE(uart_.is_quiet());
}

TEST_F(UartRegistersTest, WhileTheLineIsQuietTheTransmitterIsReady) {
  uart_.Write(kIer, kIerTransmit);
  for (uint32_t i = 0; i < UartRegisters::kMaxBurstBytes; ++i) Transmit("y");
  ASSERT_TRUE(uart_.is_quiet());
  EXPECT_EQ(uart_.Read(kLsr), 0x60);
  uart_.Write(kIer, 0);
  uart_.Write(kIer, kIerTransmit);
  EXPECT_FALSE(uart_.interrupt()) << "held back as well: else the handler would not end";
  // A driver that starts clears the FIFOs and tests this interrupt.
  uart_.Write(kFcr, 7);
  uart_.Write(kIer, 0);
  uart_.Write(kIer, kIerTransmit);
  EXPECT_TRUE(uart_.interrupt());
}

TEST_F(UartRegistersTest, WhatIsHeldBackIsPendingInASuccessor) {
  uart_.Write(kIer, kIerTransmit);
  for (uint32_t i = 0; i < UartRegisters::kMaxBurstBytes; ++i) Transmit("y");
  ASSERT_FALSE(uart_.interrupt());
  std::array<uint8_t, UartRegisters::kMaxSavedBytes> bytes;
  const size_t size = uart_.Save(absl::MakeSpan(bytes));
  UartRegisters successor;
  ASSERT_TRUE(successor.Restore(absl::MakeConstSpan(bytes).first(size)));
  EXPECT_TRUE(successor.interrupt());
}

TEST_F(UartRegistersTest, ClearingTheReceiveFifoOrSwitchingFifosDropsWhatWasReceived) {
  uart_.Write(kMcr, kRts);
  for (const uint8_t control : {0x03, 0x00, 0x01}) {
    uart_.Write(kFcr, control == 0x01 ? 0 : 1);
    Receive("x");
    ASSERT_EQ(uart_.Read(kLsr), 0x61);
    uart_.Write(kFcr, control);
    EXPECT_EQ(uart_.Read(kLsr), 0x60) << int{control};
  }
}

TEST_F(UartRegistersTest, WithoutTheEnableBitTheClearBitDoesNothing) {
  uart_.Write(kMcr, kRts);
  Receive("x");
  uart_.Write(kFcr, 0x02);
  EXPECT_EQ(uart_.Read(kRbr), 'x');
}

TEST_F(UartRegistersTest, BelowTheTriggerLevelReceivedDataIsACharacterTimeout) {
  uart_.Write(kMcr, kRts);
  uart_.Write(kIer, kIerReceive);
  const struct {
    uint8_t control;
    size_t level;
  } cases[] = {{0x03, 1}, {0x43, 4}, {0x83, 8}, {0xc3, 14}};
  for (const auto& [control, level] : cases) {
    uart_.Write(kFcr, control);
    for (size_t received = 1; received <= 16; ++received) {
      Receive("x");
      EXPECT_EQ(uart_.Read(kIir), received < level ? 0xcc : 0xc4) << level << " " << received;
    }
  }
}

TEST_F(UartRegistersTest, ReadingIirClearsTransmitterEmpty) {
  uart_.Write(kIer, kIerTransmit);
  EXPECT_TRUE(uart_.interrupt());
  EXPECT_EQ(uart_.Read(kIir), kIirTransmit);
  EXPECT_FALSE(uart_.interrupt());
  EXPECT_EQ(uart_.Read(kIir), kNoInterrupt);
}

TEST_F(UartRegistersTest, ReadingIirDoesNotClearTransmitterEmptyBehindAnotherCause) {
  uart_.Write(kMcr, kRts);
  uart_.Write(kIer, kIerTransmit | kIerReceive);
  Receive("x");
  EXPECT_EQ(uart_.Read(kIir), 0x04);
  EXPECT_EQ(uart_.Read(kIir), 0x04);
  uart_.Read(kRbr);
  EXPECT_EQ(uart_.Read(kIir), kIirTransmit);
}

TEST_F(UartRegistersTest, CausesAreNamedByPriority) {
  uart_.Write(kIer, 0x0f);
  uart_.Write(kMcr, kLoopback);  // modem status
  Transmit("ab");                // overrun, data, transmitter empty
  EXPECT_EQ(uart_.Read(kIir), 0x06);
  uart_.Read(kLsr);
  EXPECT_EQ(uart_.Read(kIir), 0x04);
  uart_.Read(kRbr);
  EXPECT_EQ(uart_.Read(kIir), 0x02);
  EXPECT_EQ(uart_.Read(kIir), 0x00);
  uart_.Read(kMsr);
  EXPECT_EQ(uart_.Read(kIir), 0x01);
  EXPECT_FALSE(uart_.interrupt());
}

TEST_F(UartRegistersTest, DisabledCausesAreNotPending) {
  uart_.Write(kMcr, kLoopback);
  Transmit("ab");
  EXPECT_FALSE(uart_.interrupt());
  EXPECT_EQ(uart_.Read(kIir), kNoInterrupt);
  for (const uint8_t enable : {kIerLineStatus, kIerReceive, kIerTransmit, kIerModem}) {
    uart_.Write(kIer, enable);
    EXPECT_TRUE(uart_.interrupt()) << int{enable};
  }
}

TEST_F(UartRegistersTest, EachTransmittedByteIsAnEdge) {
  uart_.Write(kIer, kIerTransmit);
  EXPECT_TRUE(uart_.TakeInterruptEdge());
  EXPECT_FALSE(uart_.TakeInterruptEdge());
  Transmit("a");
  EXPECT_TRUE(uart_.TakeInterruptEdge()) << "although IIR was never read";
}

TEST_F(UartRegistersTest, DealingWithOneOfTwoCausesIsAnEdge) {
  uart_.Write(kMcr, kRts);
  uart_.Write(kIer, kIerTransmit | kIerReceive);
  Receive("x");
  EXPECT_TRUE(uart_.TakeInterruptEdge());
  EXPECT_EQ(uart_.Read(kRbr), 'x');
  EXPECT_TRUE(uart_.TakeInterruptEdge()) << "the transmitter is still empty";
  EXPECT_EQ(uart_.Read(kIir), kIirTransmit);
  EXPECT_FALSE(uart_.TakeInterruptEdge());
}

TEST_F(UartRegistersTest, ASecondCauseIsAnEdge) {
  uart_.Write(kMcr, kRts);
  uart_.Write(kIer, kIerTransmit | kIerReceive);
  EXPECT_TRUE(uart_.TakeInterruptEdge());
  Receive("x");
  EXPECT_TRUE(uart_.TakeInterruptEdge());
}

TEST_F(UartRegistersTest, AnEdgeThatWasNotTakenIsWithdrawnWithItsCause) {
  uart_.Write(kIer, kIerTransmit);
  uart_.Write(kIer, 0);
  EXPECT_FALSE(uart_.TakeInterruptEdge());
}

TEST_F(UartRegistersTest, WhenTheOtherEndDoesNotTakeBytesTheTransmitterIsNotEmpty) {
  uart_.Write(kIer, kIerTransmit);
  FillTransmitter();
  EXPECT_EQ(uart_.Read(kLsr), 0x00);
  EXPECT_EQ(uart_.Read(kIir), kNoInterrupt);
  EXPECT_FALSE(uart_.interrupt());
  const size_t waiting = UartRegisters::kTransmitBytes - UartRegisters::kFifoBytes + 1;
  EXPECT_EQ(uart_.Transmitted().size(), waiting);
  uart_.EndQuiet();
  EXPECT_FALSE(uart_.interrupt());

  uart_.ConsumeTransmitted(1);
  EXPECT_EQ(uart_.Read(kLsr), 0x60) << "a FIFO's worth is free";
  EXPECT_TRUE(uart_.TakeInterruptEdge());
  EXPECT_EQ(uart_.Read(kIir), kIirTransmit);
}

TEST_F(UartRegistersTest, AGuestThatDoesNotWaitLosesItsBytesAndNothingElse) {
  for (int i = 0; i < 100'000; ++i) Transmit("x");
  EXPECT_EQ(TakeTransmitted(), std::string(UartRegisters::kTransmitBytes, 'x'));
  Transmit("y");
  EXPECT_EQ(TakeTransmitted(), "y");
}

TEST_F(UartRegistersTest, TransmittedBytesKeepTheirOrderAroundTheEndOfTheBuffer) {
  Transmit(std::string(UartRegisters::kTransmitBytes - 2, '.'));
  TakeTransmitted();
  Transmit("abcdef");
  EXPECT_EQ(uart_.Transmitted().size(), 2u) << "in two pieces";
  EXPECT_EQ(TakeTransmitted(), "abcdef");
}

TEST_F(UartRegistersTest, InLoopbackNothingReachesTheLine) {
  uart_.Write(kMcr, kLoopback);
  Transmit("secret");
  EXPECT_EQ(TakeTransmitted(), "");
}

TEST_F(UartRegistersTest, AFullFifoKeepsItsBytesWhenMoreIsLoopedBack) {
  uart_.Write(kFcr, 1);
  uart_.Write(kMcr, kLoopback);
  Transmit("0123456789abcdefX");
  EXPECT_EQ(uart_.Read(kLsr), 0x63);
  std::string received;
  while ((uart_.Read(kLsr) & 1) != 0) received.push_back(static_cast<char>(uart_.Read(kRbr)));
  EXPECT_EQ(received, "0123456789abcdef");
}

}  // namespace
}  // namespace bulkhead::devices::uart16550
