// Any sequence of register accesses and line events. The first byte of each step chooses:
// bit 7 clear: a guest access (bits 0-2 offset, bit 3 write, the next byte is the value);
// bit 7 set: the other end sends (bit 6) or takes (else) up to 63 bytes; if it takes none, time
// passes.

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <array>
#include <vector>

#include "absl/types/span.h"
#include "base/testing/fuzz_input.h"
#include "devices/uart16550/uart_registers.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr uint8_t kData = 0, kIir = 2, kLcr = 3, kLsr = 5, kMsr = 6;

// A driver that deals with each cause as it is named, as Linux's does, comes to an end.
void RequireThatServingEnds(UartRegisters uart) {
  uart.Write(kLcr, 0);  // data, not divisor
  constexpr int kMostCauses = 1 + static_cast<int>(UartRegisters::kFifoBytes) + 1 + 1;
  for (int i = 0; i <= kMostCauses; ++i) {
    const bool interrupt = uart.interrupt();
    const uint8_t identification = uart.Read(kIir) & 0x0f;
    Require(interrupt == ((identification & 1) == 0));
    switch (identification) {
      case 0x01:
        return;
      case 0x06:
        uart.Read(kLsr);
        break;
      case 0x04:
      case 0x0c:
        uart.Read(kData);
        break;
      case 0x02:
        break;
      case 0x00:
        uart.Read(kMsr);
        break;
      default:
        Require(false);
    }
  }
  Require(false);
}

// What was saved and restored behaves as what it was.
UartRegisters Successor(const UartRegisters& uart) {
  std::array<uint8_t, UartRegisters::kMaxSavedBytes> bytes;
  const size_t size = uart.Save(absl::MakeSpan(bytes));
  Require(size <= bytes.size());
  UartRegisters successor;
  Require(successor.Restore(absl::MakeConstSpan(bytes).first(size)));
  Require(successor.Transmitted().size() <= UartRegisters::kTransmitBytes);
  if (uart.is_quiet()) {  // what is held back is not, in a successor
    Require(successor.interrupt() || !uart.interrupt());
  } else {
    Require(successor.interrupt() == uart.interrupt());
    Require(successor.ReceiveRoom() == uart.ReceiveRoom());
  }
  return successor;
}

// Bytes that nothing has saved: refused, or a state that can be.
void RestoreAny(absl::Span<const uint8_t> bytes) {
  UartRegisters uart;
  if (!uart.Restore(bytes)) return;
  RequireThatServingEnds(uart);
  Successor(uart);
}

class Session {
 public:
  void Step(uint8_t what, uint8_t value) {
    const bool before = uart_.interrupt();
    if ((what & 0x80) == 0) {
      if ((what & 0x08) != 0) {
        uart_.Write(what & 7, value);
      } else {
        uart_.Read(what & 7);
      }
    } else if ((what & 0x40) != 0) {
      const std::vector<uint8_t> bytes(std::min<size_t>(what & 0x3f, uart_.ReceiveRoom()), value);
      uart_.Receive(bytes);
    } else if ((what & 0x3f) == 0) {
      if ((value & 1) != 0) uart_.EndQuiet();
      if (uart_.may_want_input_without_rts()) uart_.AssumeRts();
    } else {
      uart_.ConsumeTransmitted(std::min<size_t>(what & 0x3f, uart_.Transmitted().size()));
    }
    Require(!uart_.is_quiet() || uart_.ReceiveRoom() == 0);
    Require(uart_.ReceiveRoom() <= UartRegisters::kFifoBytes);
    Require(uart_.Transmitted().size() <= UartRegisters::kTransmitBytes);
    const bool edge = uart_.TakeInterruptEdge();
    Require(!edge || uart_.interrupt());
    Require(edge || before || !uart_.interrupt());  // a rise of the line is an edge
    // Not after every step: it copies the registers and their buffers.
    if ((++steps_ & 15) == 0) RequireThatServingEnds(uart_);
    if ((steps_ & 63) == 0) {
      uart_ = Successor(uart_);
      uart_.TakeInterruptEdge();
    }
  }

 private:
  UartRegisters uart_;
  unsigned steps_ = 0;
};

}  // namespace
}  // namespace bulkhead::devices::uart16550

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  bulkhead::devices::uart16550::Session session;
  for (size_t i = 0; i + 1 < size; i += 2) session.Step(data[i], data[i + 1]);
  bulkhead::devices::uart16550::RestoreAny(absl::MakeConstSpan(data, size));
  return 0;
}
