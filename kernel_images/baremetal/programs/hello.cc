// The least that a machine must give: says who it is and which CPUs came up.
// Options: cpus=N, how many must come up (default: as many as the MADT lists, or 1).

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunHello() {
  Print("hello from a bare-metal guest: RAM to ", Hex(LowRamEnd()), " and ", Hex(HighRamEnd()),
        ", ECAM at ", Hex(EcamBase()), ", ", AcpiCpuCount(), " CPUs in the MADT\n");

  // A self-made interrupt comes through.
  constexpr uint64_t kInterruptCommandLow = kLocalApic + 0x300;
  constexpr uint32_t kToSelf = 1 << 18;
  SetInterruptsEnabled(true);
  MmioWrite<uint32_t>(kInterruptCommandLow, kToSelf | kFirstVector);
  EXPECT_TRUE(WaitFor([] { return InterruptCount(kFirstVector) == 1; }));
  EXPECT_EQ(LastInterruptedCpu(kFirstVector), 0u);

  const uint32_t listed = AcpiCpuCount();
  const auto cpus = static_cast<uint32_t>(NumberOption("cpus", listed != 0 ? listed : 1));
  if (listed != 0) EXPECT_EQ(listed, cpus);
  if (cpus > 1) {
    static uint32_t seen = 0;  // one bit a CPU
    EXPECT_TRUE(StartOtherCpus(cpus, [](uint32_t cpu) {
      EXPECT_EQ(CurrentCpu(), cpu);
      __atomic_fetch_or(&seen, 1u << cpu, __ATOMIC_RELAXED);
    }));
    const auto all = static_cast<uint32_t>((uint64_t{1} << cpus) - 2);
    EXPECT_TRUE(WaitFor([all] { return __atomic_load_n(&seen, __ATOMIC_RELAXED) == all; }));
  }
  Print(cpus, " CPUs run\n");
}

}  // namespace bulkhead::guest
