#include "kernel_images/baremetal/lib/report.h"

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/uart.h"

namespace bulkhead::guest {
namespace {

// Bulkhead's sleep and reset register, as its FADT says. Under QEMU it is the PM1 status
// register, in which these bits clear what is not set.
constexpr uint16_t kAcpiPort = 0x600;
constexpr uint8_t kAcpiReset = 0x01;
constexpr uint8_t kAcpiPowerOff = 0x34;
constexpr uint16_t kQemuDebugExit = 0xf4;
constexpr uint8_t kQemuPassed = 0x10;  // exit code 2 * n + 1
constexpr uint8_t kQemuFailed = 0x11;
constexpr uint16_t kQemuPm1Control = 0x604;
constexpr uint16_t kQemuPowerOff = 0x2000;

uint32_t fifo_room = 0;
bool failed = false;

void PutCharacter(char character) {
  if (fifo_room == 0) {
    // Bounded: a console that does not answer must not keep the program from ending. One that
    // is absent reads as all ones, which looks ready.
    void (*const others)() = let_others_run;
    let_others_run = nullptr;  // lines of several tasks must not mix
    WaitFor(uart::CanSend);
    let_others_run = others;
    fifo_room = uart::kFifoBytes;
  }
  Out8(uart::kData, static_cast<uint8_t>(character));
  --fifo_room;
}

[[noreturn]] void End(uint8_t acpi_value, uint8_t qemu_value) {
  Out8(kAcpiPort, acpi_value);
  Out8(kQemuDebugExit, qemu_value);
  Out16(kQemuPm1Control, kQemuPowerOff);
  Park();
}

}  // namespace

void PrintOne(char character) {
  static bool fifo_enabled = false;
  if (!fifo_enabled) {
    Out8(uart::kFifoControl, 1);
    fifo_enabled = true;
  }
  if (character == '\n') PutCharacter('\r');
  PutCharacter(character);
}

void PrintOne(const char* text) {
  while (*text != '\0') PrintOne(*text++);
}

void PrintOne(uint64_t number) {
  char digits[20];
  int count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  while (count > 0) PrintOne(digits[--count]);
}

void PrintOne(int64_t number) {
  if (number < 0) PrintOne('-');
  PrintOne(number < 0 ? uint64_t{0} - static_cast<uint64_t>(number)
                      : static_cast<uint64_t>(number));
}

void PrintOne(Hex number) {
  PrintOne("0x");
  bool leading = true;
  for (int shift = 60; shift >= 0; shift -= 4) {
    const uint64_t digit = number.value >> shift & 0xf;
    if (digit == 0 && leading && shift != 0) continue;
    leading = false;
    PrintOne("0123456789abcdef"[digit]);
  }
}

void Pass() {
  // An earlier failure of another CPU wins.
  if (__atomic_test_and_set(&failed, __ATOMIC_SEQ_CST)) Park();
  Print("BULKHEAD-PASS\n");
  End(kAcpiPowerOff, kQemuPassed);
}

void ResetMachine() {
  Out8(kAcpiPort, kAcpiReset);
  Park();
}

void BeginFailure() {
  if (__atomic_test_and_set(&failed, __ATOMIC_SEQ_CST)) Park();
  let_others_run = nullptr;
  Print("\nBULKHEAD-FAIL ");
}

void EndFailure() {
  Print("\n");
  End(kAcpiReset, kQemuFailed);
}

}  // namespace bulkhead::guest
