// One total order of posted writes: CPUs pass a lock around, and its holder posts the next
// number to the device, without reading anything back. The device checks that the numbers
// arrive one after the other. Needs the rig.
// Options: cpus=N (2), writes=N of each CPU (1000), under_lock=N writes each time (1).

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

// How long to wait for another CPU to take the lock, before taking it again.
constexpr uint64_t kCyclesForOthers = 500'000;

uint64_t registers;
uint32_t all_cpus;
uint32_t writes_per_cpu;
uint32_t writes_under_lock;
bool start = false;
uint32_t finished = 0;

SpinLock lock;
uint32_t next_number = 0;     // by `lock`
uint32_t last_cpu = 0;        // written by `lock`
uint32_t changes_of_cpu = 0;  // by `lock`

void PostNumbers(uint32_t cpu) {
  WaitFor([] { return __atomic_load_n(&start, __ATOMIC_ACQUIRE); });
  for (uint32_t i = 0; i < writes_per_cpu; i += writes_under_lock) {
    lock.Lock();
    if (last_cpu != cpu) ++changes_of_cpu;
    __atomic_store_n(&last_cpu, cpu, __ATOMIC_RELAXED);
    for (uint32_t j = 0; j < writes_under_lock; ++j) {
      MmioWrite<uint32_t>(registers + kOrderNextOffset, next_number++);
    }
    lock.Unlock();
    // Another CPU's turn: after the first one for certain, so that the lock does change hands; else
    // if the host runs one just now.
    WaitFor(
        [=] {
          return __atomic_load_n(&last_cpu, __ATOMIC_RELAXED) != cpu ||
                 __atomic_load_n(&finished, __ATOMIC_RELAXED) + 1 >= all_cpus;
        },
        i == 0 ? kLongWaitCycles : kCyclesForOthers);
  }
  __atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
}

}  // namespace

void RunOrderTest() {
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  registers = rig.ReadBar(kRegisterBar).address;
  rig.SetCommandBits(kCommandMemory);
  const auto cpus = static_cast<uint32_t>(NumberOption("cpus", 2));
  all_cpus = cpus;
  writes_per_cpu = static_cast<uint32_t>(NumberOption("writes", 1000));
  writes_under_lock = static_cast<uint32_t>(NumberOption("under_lock", 1));
  EXPECT_TRUE(writes_under_lock > 0 && writes_per_cpu % writes_under_lock == 0);

  MmioWrite<uint32_t>(registers + kOrderViolationsOffset, 0);
  if (cpus > 1) EXPECT_TRUE(StartOtherCpus(cpus, PostNumbers));
  __atomic_store_n(&start, true, __ATOMIC_RELEASE);
  PostNumbers(0);
  EXPECT_TRUE(WaitFor([=] { return __atomic_load_n(&finished, __ATOMIC_ACQUIRE) == cpus; },
                      cpus * kLongWaitCycles));

  const uint32_t arrived = MmioRead<uint32_t>(registers + kOrderNextOffset);
  const uint32_t violations = MmioRead<uint32_t>(registers + kOrderViolationsOffset);
  Print(arrived, " numbers from ", cpus, " CPUs, the lock changed CPU ", changes_of_cpu, " times, ",
        violations, " out of order\n");
  EXPECT_EQ(arrived, cpus * writes_per_cpu);
  EXPECT_EQ(violations, 0u);
  // Otherwise nothing has been shown.
  if (cpus > 1) EXPECT_TRUE(changes_of_cpu >= cpus);
}

}  // namespace bulkhead::guest
