#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

struct Program {
  const char* name;
  void (*run)();
};

constexpr Program kPrograms[] = {
    {"hello", RunHello},
    {"balloon", RunBalloon},
    {"pci_test", RunPciTest},
    {"mmio_test", RunMmioTest},
    {"doorbell_test", RunDoorbellTest},
    {"msix_test", RunMsixTest},
    {"intx_test", RunIntxTest},
    {"dma_test", RunDmaTest},
    {"order_test", RunOrderTest},
    {"example_test", RunExampleTest},
    {"panic", RunPanic},
    {"virtio_rng_test", RunVirtioRngTest},
    {"virtio_blk_test", RunVirtioBlkTest},
    {"disk_storm", RunDiskStorm},
    {"net_storm", RunNetStorm},
    {"net_link", RunNetLink},
    {"watch_device", RunWatchDevice},
    {"watchdog", RunWatchdog},
    {"reboot_test", RunRebootTest},
    {"console_storm", RunConsoleStorm},
    {"hostile_driver", RunHostileDriver},
    {"idle", RunIdle},
    {"disk_growth", RunDiskGrowth},
    {"everything_storm", RunEverythingStorm},
    {"ticker", RunTicker},
    {"touch_ram", RunTouchRam},
    {"use_devices", RunUseDevices},
    {"vsock_echo", RunVsockEcho},
    {"bench_mmio", RunBenchMmio},
    {"bench_block", RunBenchBlock},
    {"bench_console", RunBenchConsole},
    {"bench_doorbell", RunBenchDoorbell},
    {"bench_scale", RunBenchScale},
    {"bench_net", RunBenchNet},
};

bool Equal(const char* a, const char* b) {
  return strlen(a) == strlen(b) && memcmp(a, b, strlen(a)) == 0;
}

}  // namespace
}  // namespace bulkhead::guest

// Called by the start-up code, at CPL3.
void Main() {
  using namespace bulkhead::guest;
  ReadBootInfo();
  const char* const name = StringOption("run", "hello");
  for (const Program& program : kPrograms) {
    if (!Equal(program.name, name)) continue;
    program.run();
    Pass();
  }
  Fail("no program is called ", name);
}
