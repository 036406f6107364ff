// Measures how fast the serial console takes output, from a driver that polls and from an interrupt
// handler that works as Linux's does, and what such a handler costs its processor.
// Needs: a 16550 UART at port 0x3f8 on I/O APIC input 4, edge-triggered.
//
// Options: bytes=N, how many each driver sends (20000).
// Prints:
//   BENCH name=poll bytes=... cycles=...
//   BENCH name=interrupt bytes=... cycles=... interrupts=... most_bytes=... longest_cycles=...
//         handler_cycles=...
// most_bytes, longest_cycles: of one run of the handler; handler_cycles: of all.

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kNoDevice = 0x80;
constexpr uint32_t kGsi = 4;
constexpr int kPassLimit = 512;  // Linux's

uint64_t to_send;
uint64_t most_bytes;
uint64_t longest_cycles;
uint64_t handler_cycles;

uint8_t Byte() { return to_send % 64 == 0 ? '\n' : '.'; }

void SendFifo() {
  for (uint64_t i = 0; i < uart::kFifoBytes && to_send != 0; ++i) {
    Out8(uart::kData, Byte());
    --to_send;
  }
}

// At CPL0.
void OnUart() {
  const uint64_t start = ReadTsc();
  const uint64_t before = to_send;
  for (int pass = 0; pass < kPassLimit; ++pass) {
    if ((In8(uart::kInterruptIdentification) & uart::kNothingPending) != 0) break;
    const uint8_t status = In8(uart::kLineStatus);
    In8(uart::kModemStatus);
    if ((status & uart::kTransmitterEmpty) == 0) continue;
    SendFifo();
    if (to_send == 0) Out8(uart::kInterruptEnable, 0);
  }
  const uint64_t cycles = ReadTsc() - start;
  if (before - to_send > most_bytes) most_bytes = before - to_send;
  if (cycles > longest_cycles) longest_cycles = cycles;
  handler_cycles += cycles;
}

bool AllIsSent() {
  // Leaves the guest: some KVMs see an interrupt for code at CPL3 with the host's next tick only.
  In8(kNoDevice);
  return __atomic_load_n(&to_send, __ATOMIC_ACQUIRE) == 0;
}

}  // namespace

void RunBenchConsole() {
  const uint64_t bytes = NumberOption("bytes", 20'000);
  Out8(uart::kFifoControl, uart::kFifosEnabled);

  uint64_t start = ReadTsc();
  for (to_send = bytes; to_send != 0; SendFifo()) {
    EXPECT_TRUE(WaitFor(uart::CanSend));
  }
  const uint64_t poll_cycles = ReadTsc() - start;

  SetInterruptHandler(kFirstVector, OnUart);
  RouteEdgeInterrupt(kGsi, 0, kFirstVector);
  Out8(uart::kModemControl, uart::kInterruptGate);
  SetInterruptsEnabled(true);
  to_send = bytes;
  start = ReadTsc();
  Out8(uart::kInterruptEnable, uart::kTransmitInterrupt);
  uint64_t left = bytes;
  while (!WaitFor(AllIsSent)) {
    EXPECT_TRUE(to_send < left);  // it goes on, if slowly
    left = to_send;
  }
  const uint64_t interrupt_cycles = ReadTsc() - start;
  SetInterruptsEnabled(false);

  Print("\nBENCH name=poll bytes=", bytes, " cycles=", poll_cycles, "\n");
  Print("BENCH name=interrupt bytes=", bytes, " cycles=", interrupt_cycles,
        " interrupts=", InterruptCount(kFirstVector), " most_bytes=", most_bytes,
        " longest_cycles=", longest_cycles, " handler_cycles=", handler_cycles, "\n");
}

}  // namespace bulkhead::guest
