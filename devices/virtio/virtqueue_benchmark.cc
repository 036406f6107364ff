// What one chain costs the device's side of a virtqueue: bazel run -c opt
// //devices/virtio:virtqueue_benchmark. The driver's part is two stores a chain.
#include <stdint.h>
#include <stdlib.h>

#include <vector>

#include "benchmark/benchmark.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint16_t kSize = 256;
constexpr GuestAddress kRings = 0x1000;
constexpr GuestAddress kData = 0x80000;
constexpr GuestAddress kTables = 0xc0000;

// Batches of chains of three buffers, as a disk read has. Arguments: chains in a batch; whether
// they are indirect.
void BM_PopAndComplete(benchmark::State& state) {
  const int batch = static_cast<int>(state.range(0));
  const bool indirect = state.range(1) != 0;
  const FakeServices services({{0, 1 << 20}});
  FakeQueue driver(services.memory(), kRings, kSize, true);
  Virtqueue queue(kSize, [](absl::string_view) {});
  if (!queue.Enable(services.memory(), driver.setup(), true, true).ok()) abort();
  queue.SetServing(true);

  const std::vector<Buffer> buffers = {
      {kData, 16, false}, {kData + 4096, 4096, true}, {kData + 16, 1, true}};
  std::vector<uint16_t> heads;
  for (int i = 0; i < batch; ++i) {
    heads.push_back(
        (indirect ? driver.AddIndirect(buffers, kTables + 64 * i) : driver.Add(buffers)).value());
  }
  std::vector<iovec> storage(kSize);
  DescriptorChain chain;
  for (auto _ : state) {
    do {
      queue.SuppressDoorbells();
      while (queue.Pop(absl::MakeSpan(storage), chain)) queue.Complete(chain.head, 4097);
    } while (queue.RearmDoorbell());
    benchmark::DoNotOptimize(queue.Publish());
    for (const uint16_t head : heads) driver.MakeAvailable(head);
  }
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(BM_PopAndComplete)->ArgNames({"batch", "indirect"})->ArgsProduct({{1, 32}, {0, 1}});

}  // namespace
}  // namespace bulkhead::devices::virtio
