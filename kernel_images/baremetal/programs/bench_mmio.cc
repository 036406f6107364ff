// Measures one read and one write of a device register, in cycles of the timestamp counter.
//
// Options:
//   vendor=, device=  the PCI function (default: the rig)
//   bar=N             its BAR (0)
//   read=OFFSET       register to read, 4 bytes (0)
//   write=OFFSET      register to write, 4 bytes (4)
//   samples=N         of each kind, at most 20000 (2000)
//   idle=CYCLES       measure again with this pause before each sample, so that the device has
//                     fallen asleep (0: do not)
//   idle_samples=N    of each kind (samples / 10)
//   level=0|3         privilege level of the code that makes the access (0): KVMs that interpret
//                     CPL0 code take exits from it more cheaply than from CPL3
// Prints, for the measurement itself (name=none), one read and one write:
//   BENCH name=read phase=hot level=0 samples=2000 min=... p50=... p90=... p99=... max=...

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/samples.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kWarmUp = 200;

enum class Access { kNone, kRead, kWrite };

// The time between two readings of the counter with one access between them. Three
// instructions, since each of them counts where CPL0 is interpreted; the exit serialises.
template <Access kind>
uint64_t TimeOne(uint64_t address) {
  uint32_t before, after, high;
  if constexpr (kind == Access::kNone) {
    asm volatile("rdtsc; mov %%eax, %0; rdtsc" : "=&r"(before), "=&a"(after), "=&d"(high));
  } else if constexpr (kind == Access::kRead) {
    asm volatile("rdtsc; mov %%eax, %0; mov (%3), %%ecx; rdtsc"
                 : "=&r"(before), "=&a"(after), "=&d"(high)
                 : "r"(address)
                 : "rcx", "memory");
  } else {
    asm volatile("rdtsc; mov %%eax, %0; mov %%eax, (%3); rdtsc"
                 : "=&r"(before), "=&a"(after), "=&d"(high)
                 : "r"(address)
                 : "memory");
  }
  return after - before;  // the low halves wrap, their difference does not
}

struct Measurement {
  uint64_t address;
  uint32_t count;
  uint64_t idle_cycles;
};

template <Access kind>
uint64_t Measure(const Measurement& measurement) {
  if (measurement.idle_cycles == 0) {
    for (uint32_t i = 0; i < kWarmUp; ++i) TimeOne<kind>(measurement.address);
  }
  for (uint32_t i = 0; i < measurement.count; ++i) {
    if (measurement.idle_cycles != 0) Delay(measurement.idle_cycles);
    samples[i] = TimeOne<kind>(measurement.address);
  }
  return 0;
}

template <Access kind>
void MeasureAndPrint(const char* name, const char* phase, uint32_t level,
                     const Measurement& measurement) {
  if (level == 0) {
    RunPrivileged(
        [](InterruptFrame&, uint64_t argument) {
          return Measure<kind>(*reinterpret_cast<const Measurement*>(argument));
        },
        reinterpret_cast<uint64_t>(&measurement));
  } else {
    Measure<kind>(measurement);
  }
  PrintSamples(measurement.count, "name=", name, " phase=", phase, " level=", level);
}

}  // namespace

void RunBenchMmio() {
  const PciFunction function = FunctionFromOption(0x1209, 0xb001);
  const auto bar_index = static_cast<uint32_t>(NumberOption("bar", 0));
  const PciFunction::Bar bar = function.ReadBar(bar_index);
  EXPECT_TRUE(bar.size_bytes != 0 && !bar.is_port);
  function.SetCommandBits(kCommandMemory);
  const auto count = static_cast<uint32_t>(NumberOption("samples", 2000));
  EXPECT_TRUE(count >= 1 && count <= kMaxSamples);
  const auto level = static_cast<uint32_t>(NumberOption("level", 0));
  EXPECT_TRUE(level == 0 || level == 3);
  const uint64_t read_address = bar.address + NumberOption("read", 0);
  const uint64_t write_address = bar.address + NumberOption("write", 4);
  const uint64_t idle_cycles = NumberOption("idle", 0);

  MeasureAndPrint<Access::kNone>("none", "hot", level, {0, count, 0});
  MeasureAndPrint<Access::kRead>("read", "hot", level, {read_address, count, 0});
  MeasureAndPrint<Access::kWrite>("write", "hot", level, {write_address, count, 0});
  if (idle_cycles == 0) return;
  const auto idle_count =
      static_cast<uint32_t>(NumberOption("idle_samples", count >= 10 ? count / 10 : 1));
  EXPECT_TRUE(idle_count >= 1 && idle_count <= kMaxSamples);
  MeasureAndPrint<Access::kRead>("read", "idle", level, {read_address, idle_count, idle_cycles});
  MeasureAndPrint<Access::kWrite>("write", "idle", level, {write_address, idle_count, idle_cycles});
}

}  // namespace bulkhead::guest
