// The serial console, both ways at once and as fast as it goes, every byte known by its place.
// Needs: a 16550 UART at port 0x3f8, whose other end types what Byte() says.
// Options: bytes=N, how many are printed (default 100000); input=N, how many must come (default 0).

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

// Lines of 64 bytes, in which lost and repeated bytes show.
uint8_t Byte(uint64_t position) {
  if (position % 64 == 63) return '\n';
  return static_cast<uint8_t>('a' + (position * 7 + position / 64) % 26);
}

}  // namespace

void RunConsoleStorm() {
  const uint64_t output = NumberOption("bytes", 100'000);
  const uint64_t input = NumberOption("input", 0);
  Out8(uart::kFifoControl, uart::kFifosEnabled);
  uart::AllowInput();
  uint64_t sent = 0;
  uint64_t received = 0;
  while (sent < output || received < input) {
    uint8_t status = 0;
    WaitFor([&] {
      status = In8(uart::kLineStatus);
      const bool can_send = (status & uart::kTransmitterEmpty) != 0 && sent < output;
      return can_send || (status & uart::kDataReady) != 0;
    });
    if ((status & uart::kDataReady) != 0) {
      const uint8_t byte = In8(uart::kData);
      if (byte != Byte(received)) {
        Fail("input byte ", received, " is ", Hex(byte), " instead of ", Hex(Byte(received)));
      }
      ++received;
    } else if ((status & uart::kTransmitterEmpty) != 0 && sent < output) {
      for (uint64_t i = 0; i < uart::kFifoBytes && sent < output; ++i)
        Out8(uart::kData, Byte(sent++));
    } else {
      Fail("nothing happens after ", sent, " bytes of output and ", received, " of input");
    }
  }
  Print("\n");
}

}  // namespace bulkhead::guest
