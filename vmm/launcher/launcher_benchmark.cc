// What a start costs: from the request to the running program, and to the end of the killed
// process; with all layers of the sandbox, without one of them, and without the sandbox.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "benchmark/benchmark.h"
#include "vmm/config/program_file.h"
#include "vmm/launcher/launcher.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

void Start(benchmark::State& state, SandboxLayers layers) {
  const std::unique_ptr<Launcher> launcher = *Launcher::Start();
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  const ProcessSpec spec = {
      .binary = *ProgramFile::Open("vmm/launcher/testing/confined_program"),
      .args = {},
      .environment = {},
      .descriptors = {null.get(), null.get(), null.get()},
      .sandbox = {.layers = launcher->is_root() ? layers : layers.Without(SandboxLayer::kUid),
                  .uid = 0x60000001,
                  .gid = 0x60000001,
                  .max_address_space_bytes = 1 << 30,
                  .filter = *CompileDevicePolicy("")}};
  for (auto _ : state) {
    absl::StatusOr<LaunchedProcess> launched = launcher->Launch(spec, {});
    if (!launched.ok()) {
      state.SkipWithError(std::string(launched.status().message()).c_str());
      break;
    }
    launched->process.Signal(SIGKILL).IgnoreError();
    launched->process.Wait(absl::Seconds(10)).status().IgnoreError();
  }
}

BENCHMARK_CAPTURE(Start, without_sandbox, SandboxLayers::Off())->UseRealTime();
BENCHMARK_CAPTURE(Start, in_all_layers, SandboxLayers::OfDevices())->UseRealTime();
BENCHMARK_CAPTURE(Start, without_user, SandboxLayers::OfDevices().Without(SandboxLayer::kUser))
    ->UseRealTime();
BENCHMARK_CAPTURE(Start, without_net, SandboxLayers::OfDevices().Without(SandboxLayer::kNet))
    ->UseRealTime();
BENCHMARK_CAPTURE(Start, without_caps, SandboxLayers::OfDevices().Without(SandboxLayer::kCaps))
    ->UseRealTime();
BENCHMARK_CAPTURE(Start, without_landlock,
                  SandboxLayers::OfDevices().Without(SandboxLayer::kLandlock))
    ->UseRealTime();
BENCHMARK_CAPTURE(Start, without_seccomp,
                  SandboxLayers::OfDevices().Without(SandboxLayer::kSeccomp))
    ->UseRealTime();

}  // namespace
}  // namespace bulkhead::vmm
