// Starts the watchdog i6300esb and reloads it until a key is typed. Then it hangs. Needs the
// watchdog. Options:
//   ticks=N    of each stage, about milliseconds (500)
//   pauses=N   so many cycles between two reloads (20,000,000)

#include "devices/i6300esb/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::i6300esb;

uint64_t registers = 0;

void Unlock() {
  MmioWrite<uint16_t>(registers + kReloadOffset, kUnlock1);
  MmioWrite<uint16_t>(registers + kReloadOffset, kUnlock2);
}

void Reload(uint16_t more = 0) {
  Unlock();
  MmioWrite<uint16_t>(registers + kReloadOffset, static_cast<uint16_t>(kReload | more));
}

void SetTimer(uint64_t offset, uint32_t ticks) {
  Unlock();
  MmioWrite<uint32_t>(registers + offset, ticks);
  EXPECT_EQ(MmioRead<uint32_t>(registers + offset), ticks);
}

}  // namespace

void RunWatchdog() {
  const PciFunction function = FindFunction(kVendorId, kDeviceId);
  registers = function.ReadBar(kBar).address;
  function.SetCommandBits(kCommandMemory);
  // As Linux's driver.
  function.Write<uint16_t>(kConfigOffset, kConfigInterruptType);
  EXPECT_EQ(function.Read<uint16_t>(kConfigOffset), kConfigInterruptType);
  EXPECT_EQ(function.Read<uint8_t>(kLockOffset), 0u);
  Print((MmioRead<uint16_t>(registers + kReloadOffset) & kTimedOut) != 0
            ? "boots after an expiration\n"
            : "boots\n");
  Reload(kTimedOut);
  EXPECT_EQ(MmioRead<uint16_t>(registers + kReloadOffset), 0u);
  const auto ticks = static_cast<uint32_t>(NumberOption("ticks", 500, 1, kMaxTicks));
  const uint64_t pauses = NumberOption("pauses", 20'000'000);
  SetTimer(kTimer1Offset, ticks);
  SetTimer(kTimer2Offset, ticks);
  Reload();
  function.Write<uint8_t>(kLockOffset, kLockEnabled);
  EXPECT_EQ(function.Read<uint8_t>(kLockOffset), kLockEnabled);
  uart::AllowInput();
  for (uint64_t i = 0; !uart::HasInput(); ++i) {
    Reload();
    if (i % 16 == 0) Print("reloads ", i, "\n");
    Delay(pauses);
  }
  In8(uart::kData);
  Print("hangs\n");
  while (true) Pause();
}

}  // namespace bulkhead::guest
