// Prints "link up" or "link down" at first and after each interrupt by which a virtio network
// device says that its configuration has changed. Option:
//   changes=N  ends after so many (4)

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunNetLink() {
  constexpr uint16_t kNetType = 1;
  constexpr uint64_t kStatus = uint64_t{1} << 16;
  constexpr uint32_t kStatusOffset = 6;
  constexpr uint16_t kLinkUp = 1;
  constexpr uint32_t kQueues = 2;
  constexpr uint8_t kConfigVector = kFirstVector + kQueues;
  SetInterruptsEnabled(true);
  VirtioDevice device(kNetType);
  device.Start(kStatus, kQueues);
  device.RouteConfigInterrupt(kQueues, kConfigVector);
  const uint64_t changes = NumberOption("changes", 4);
  for (uint64_t i = 0;; ++i) {
    const uint32_t interrupts = InterruptCount(kConfigVector);
    const bool up = (device.ReadConfig<uint16_t>(kStatusOffset) & kLinkUp) != 0;
    Print(up ? "link up\n" : "link down\n");
    if (i == changes) break;
    HaltUntilInterrupt(kConfigVector, interrupts);
  }
  device.Reset();
}

}  // namespace bulkhead::guest
