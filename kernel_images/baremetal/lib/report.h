#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_REPORT_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_REPORT_H_

#include <stdint.h>

// The output of a program: lines on the UART, and how it ends.
//
// A program ends with the line BULKHEAD-PASS and power-off, or with BULKHEAD-FAIL, a reason and a
// reset, so its result is known without a console too. Under QEMU, with
// `-device isa-debug-exit,iobase=0xf4,iosize=1`, the exit code is 33 or 35.

namespace bulkhead::guest {

// ---- Printing

struct Hex {
  explicit constexpr Hex(uint64_t value) : value(value) {}
  uint64_t value;
};

void PrintOne(const char* text);
void PrintOne(char character);
void PrintOne(Hex number);
void PrintOne(uint64_t number);
void PrintOne(int64_t number);
inline void PrintOne(uint32_t number) { PrintOne(uint64_t{number}); }
inline void PrintOne(uint16_t number) { PrintOne(uint64_t{number}); }
inline void PrintOne(uint8_t number) { PrintOne(uint64_t{number}); }
inline void PrintOne(int number) { PrintOne(int64_t{number}); }
inline void PrintOne(bool value) { PrintOne(value ? "true" : "false"); }

// For the first CPU only; any CPU may call Fail().
template <typename... Parts>
void Print(const Parts&... parts) {
  (PrintOne(parts), ...);
}

// ---- The end

[[noreturn]] void Pass();
// Resets the machine, by ACPI's reset register.
[[noreturn]] void ResetMachine();
// Begins the BULKHEAD-FAIL line. At most one CPU returns from it, ever.
void BeginFailure();
[[noreturn]] void EndFailure();

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  BeginFailure();
  Print(parts...);
  EndFailure();
}

template <typename Got, typename Want>
void CheckEqual(const Got& got, const Want& want, const char* what, const char* file, int line) {
  if (static_cast<uint64_t>(got) == static_cast<uint64_t>(want)) return;
  Fail(file, ":", line, ": ", what, " is ", Hex(static_cast<uint64_t>(got)), ", want ",
       Hex(static_cast<uint64_t>(want)));
}

}  // namespace bulkhead::guest

// End the program unless they hold. The values are shown as unsigned hexadecimal.
#define EXPECT_EQ(got, want) ::bulkhead::guest::CheckEqual(got, want, #got, __FILE__, __LINE__)
#define EXPECT_TRUE(condition)                                                                     \
  do {                                                                                             \
    if (!(condition)) ::bulkhead::guest::Fail(__FILE__, ":", __LINE__, ": not true: " #condition); \
  } while (false)

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_REPORT_H_
