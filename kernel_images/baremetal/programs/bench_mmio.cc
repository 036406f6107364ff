// Measures one read and one write of a device register, in cycles of the timestamp counter.
//
// Options:
//   vendor=, device=  the PCI function (default: the example device)
//   bar=N             its BAR (0)
//   read=OFFSET       register to read, 4 bytes (0)
//   write=OFFSET      register to write, 4 bytes (4)
//   samples=N         of each kind, at most 20000 (2000)
//   idle=CYCLES       pause before each sample, so that the device falls asleep (0)
// Prints, for each of read and write:
//   BENCH name=read samples=2000 min=... p50=... p90=... p99=... max=...

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kMaxSamples = 20000;
constexpr uint32_t kWarmUp = 200;
uint64_t samples[kMaxSamples];

void SiftDown(uint32_t root, uint32_t count) {
  while (2 * root + 1 < count) {
    uint32_t child = 2 * root + 1;
    if (child + 1 < count && samples[child] < samples[child + 1]) ++child;
    if (samples[root] >= samples[child]) return;
    const uint64_t swapped = samples[root];
    samples[root] = samples[child];
    samples[child] = swapped;
    root = child;
  }
}

void Sort(uint32_t count) {
  for (uint32_t root = count / 2; root-- > 0;) SiftDown(root, count);
  for (uint32_t end = count; end-- > 1;) {
    const uint64_t largest = samples[0];
    samples[0] = samples[end];
    samples[end] = largest;
    SiftDown(0, end);
  }
}

template <typename Access>
void Measure(const char* name, uint32_t count, uint64_t idle_cycles, Access access) {
  for (uint32_t i = 0; i < kWarmUp; ++i) access();
  for (uint32_t i = 0; i < count; ++i) {
    if (idle_cycles != 0) Delay(idle_cycles);
    const uint64_t start = ReadTsc();
    access();
    samples[i] = ReadTsc() - start;
  }
  Sort(count);
  Print("BENCH name=", name, " samples=", count, " min=", samples[0], " p50=", samples[count / 2],
        " p90=", samples[count * 9 / 10], " p99=", samples[count * 99 / 100],
        " max=", samples[count - 1], "\n");
}

}  // namespace

void RunBenchMmio() {
  const PciFunction function = FunctionFromOption(0x1209, 0xb001);
  const auto bar_index = static_cast<uint32_t>(NumberOption("bar", 0));
  const PciFunction::Bar bar = function.ReadBar(bar_index);
  EXPECT_TRUE(bar.size_bytes != 0 && !bar.is_port);
  function.SetCommandBits(kCommandMemory);
  const uint64_t read_address = bar.address + NumberOption("read", 0);
  const uint64_t write_address = bar.address + NumberOption("write", 4);
  const auto count = static_cast<uint32_t>(NumberOption("samples", 2000));
  EXPECT_TRUE(count >= 1 && count <= kMaxSamples);
  const uint64_t idle_cycles = NumberOption("idle", 0);

  Measure("read", count, idle_cycles, [&] { MmioRead<uint32_t>(read_address); });
  Measure("write", count, idle_cycles, [&] { MmioWrite<uint32_t>(write_address, 0x5a5a5a5a); });
}

}  // namespace bulkhead::guest
