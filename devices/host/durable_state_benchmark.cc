// What one save costs: once a guest access that changes its device.
#include <stdint.h>
#include <string.h>

#include <vector>

#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "benchmark/benchmark.h"
#include "devices/host/durable_state.h"
#include "proto/durable_layout.h"

namespace bulkhead::devices {
namespace {

void Save(benchmark::State& state) {
  const auto size = static_cast<uint32_t>(state.range(0));
  v1::DeviceInfo info;
  info.set_saved_state_bytes(size);
  const UniqueFd file = CreateMemfd("state", durable::SizeBytes(size, 0)).value();
  const auto durable = DurableState::Open(info, file.get(), 0).value();
  const std::vector<uint8_t> model(size, 0x5a);
  for (auto _ : state) {
    durable->Save({.ticket = 1}, [&](absl::Span<uint8_t> out) {
      memcpy(out.data(), model.data(), model.size());
      return model.size();
    });
  }
}
BENCHMARK(Save)->Arg(16)->Arg(160)->Arg(1024)->Arg(16 * 1024);

}  // namespace
}  // namespace bulkhead::devices
