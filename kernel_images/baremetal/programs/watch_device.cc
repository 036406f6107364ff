// Reads the example device's identification again and again, until the device is gone and the
// register reads as all ones; any other value is a failure. Needs the example device.

#include "devices/example/registers.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunWatchDevice() {
  using namespace devices::example;
  const PciFunction example = FindFunction(kVendorId, kDeviceId);
  const uint64_t registers = example.ReadBar(kRegisterBar).address;
  example.SetCommandBits(kCommandMemory);
  Print("watching\n");
  uint32_t value;
  // Ends with the VM, if not before: whoever runs this has a limit.
  while ((value = MmioRead<uint32_t>(registers + kIdentificationOffset)) == kIdentification) {
    Pause();
  }
  EXPECT_EQ(value, 0xffffffffu);
  Print("it reads as all ones\n");
}

}  // namespace bulkhead::guest
