// Reads the rig's identification again and again, until the device is gone and the register reads
// as all ones; any other value is a failure. Needs the rig.

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunWatchDevice() {
  using namespace devices::rig;
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  const uint64_t registers = rig.ReadBar(kRegisterBar).address;
  rig.SetCommandBits(kCommandMemory);
  Print("watching\n");
  uint32_t value;
  // No limit of its own: the test that runs this has one.
  while ((value = MmioRead<uint32_t>(registers + kIdentificationOffset)) == kIdentification) {
    Pause();
  }
  EXPECT_EQ(value, 0xffffffffu);
  Print("it reads as all ones\n");
}

}  // namespace bulkhead::guest
