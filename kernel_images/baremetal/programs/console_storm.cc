// The serial console, both ways at once and as fast as it goes, every byte known by its place.
// Needs: a 16550 UART at port 0x3f8, whose other end types what Byte() says.
// Options: bytes=N, how many are printed (default 100000); input=N, how many must come (default 0).

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kData = 0x3f8;
constexpr uint16_t kFifoControl = 0x3fa;
constexpr uint16_t kModemControl = 0x3fc;
constexpr uint16_t kLineStatus = 0x3fd;
constexpr uint8_t kFifosEnabled = 0x07;
constexpr uint8_t kReadyToReceive = 0x03;
constexpr uint8_t kDataReady = 0x01;
constexpr uint8_t kTransmitterEmpty = 0x20;
constexpr uint64_t kFifoBytes = 16;

// Lines of 64, with what tells lost and repeated bytes.
uint8_t Byte(uint64_t position) {
  if (position % 64 == 63) return '\n';
  return static_cast<uint8_t>('a' + (position * 7 + position / 64) % 26);
}

}  // namespace

void RunConsoleStorm() {
  const uint64_t output = NumberOption("bytes", 100'000);
  const uint64_t input = NumberOption("input", 0);
  Out8(kFifoControl, kFifosEnabled);
  Out8(kModemControl, kReadyToReceive);
  uint64_t sent = 0;
  uint64_t received = 0;
  while (sent < output || received < input) {
    uint8_t status = 0;
    WaitFor([&] {
      status = In8(kLineStatus);
      const bool can_send = (status & kTransmitterEmpty) != 0 && sent < output;
      return can_send || (status & kDataReady) != 0;
    });
    if ((status & kDataReady) != 0) {
      const uint8_t byte = In8(kData);
      if (byte != Byte(received)) {
        Fail("input byte ", received, " is ", Hex(byte), " instead of ", Hex(Byte(received)));
      }
      ++received;
    } else if ((status & kTransmitterEmpty) != 0 && sent < output) {
      for (uint64_t i = 0; i < kFifoBytes && sent < output; ++i) Out8(kData, Byte(sent++));
    } else {
      Fail("nothing happens after ", sent, " bytes of output and ", received, " of input");
    }
  }
  Print("\n");
}

}  // namespace bulkhead::guest
