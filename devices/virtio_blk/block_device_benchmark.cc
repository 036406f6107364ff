// Reads of 4 KiB from a disk in memory, from doorbell to used ring, without vmm and guest:
// bazel run //devices/virtio_blk:block_device_benchmark.
#include <stdint.h>
#include <stdlib.h>

#include <memory>
#include <vector>

#include "base/memory_mapping.h"
#include "benchmark/benchmark.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/block_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kDiskBytes = 64 << 20;
constexpr uint32_t kReadBytes = 4096;

// Argument: requests at a time.
void BM_Read4K(benchmark::State& state) {
  const uint64_t depth = static_cast<uint64_t>(state.range(0));
  FakeServices services({{0, 16 << 20}});
  services.AddResource("disk", CreateMemfd("disk", kDiskBytes).value());
  PciTransport model(BlockDevice::Create({}).value());
  if (!model.Start(services).ok()) abort();
  FakeDriver driver(model, services);
  if (!driver.Initialize(~uint64_t{0})) abort();

  std::vector<GuestAddress> headers(depth), data(depth), status(depth);
  for (uint64_t i = 0; i < depth; ++i) {
    headers[i] = driver.Allocate(sizeof(BlockHeader));
    data[i] = driver.Allocate(kReadBytes);
    status[i] = driver.Allocate(1);
  }
  uint64_t position = 0;
  for (auto _ : state) {
    for (uint64_t i = 0; i < depth; ++i) {
      position = (position + 1237 * kReadBytes) % kDiskBytes;
      services.memory().WriteObject(headers[i], BlockHeader{kBlockIn, 0, position / kSectorSize});
      driver.queue(0).Add({{headers[i], sizeof(BlockHeader), false},
                           {data[i], kReadBytes, true},
                           {status[i], 1, true}});
    }
    driver.Kick(0);
    for (uint64_t done = 0; done < depth;) {
      if (driver.queue(0).PopUsed().has_value()) {
        ++done;
      } else {
        services.RunWatches(1000);
      }
    }
  }
  state.SetItemsProcessed(state.iterations() * depth);
}
BENCHMARK(BM_Read4K)->ArgName("depth")->Arg(1)->Arg(8)->Arg(64);

}  // namespace
}  // namespace bulkhead::devices::virtio
