#include "integration/harness/vm_client.h"

#include <signal.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/testing/processes.h"
#include "proto/control_socket.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);

}  // namespace

std::string ControlSocketOf(const std::string& vm_name) {
  return ControlSocketPath(RuntimeDirectory(), vm_name);
}

absl::StatusOr<std::unique_ptr<vmctl::VmClient>> VmClient::Connect() const {
  return Vm::Connect(vmctl::VmBehindSocket(socket_path_), kTimeout);
}

pid_t VmClient::PidOf(const std::string& name) const {
  const absl::StatusOr<v1::Device> device = GetDevice(name);
  return device.ok() && device->pid() > 0 ? device->pid() : kNoProcess;
}

bool VmClient::KillProcessOf(const std::string& name) const {
  const absl::Time deadline = SteadyNow() + kTimeout;
  while (true) {
    const pid_t pid = PidOf(name);
    if (pid != kNoProcess && kill(pid, SIGKILL) == 0) return true;
    if (SteadyNow() >= deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
}

uint64_t VmClient::GenerationOf(const std::string& name) const {
  const absl::StatusOr<v1::Device> device = GetDevice(name);
  return device.ok() ? device->generation() : 0;
}

bool VmClient::AwaitGeneration(const std::string& name, uint64_t generation) const {
  const absl::Time deadline = SteadyNow() + kTimeout;
  while (GenerationOf(name) < generation) {
    if (SteadyNow() >= deadline) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

absl::StatusOr<v1::Device> VmClient::RestartDevice(const std::string& name,
                                                   const std::string& binary) const {
  v1::RestartDeviceRequest request;
  request.set_name(name);
  request.set_binary(binary);
  return Call(&Vm::RestartDevice, request);
}

absl::StatusOr<v1::Device> VmClient::ResizeDisk(const std::string& name, uint64_t bytes) const {
  v1::ResizeDiskRequest request;
  request.set_name(name);
  request.set_size_bytes(bytes);
  return Call(&Vm::ResizeDisk, request);
}

double VmClient::DeviceMetric(const std::string& device, const std::string& name) const {
  const absl::StatusOr<v1::VmMetrics> metrics = GetMetrics();
  if (!metrics.ok()) return -1;
  for (const v1::MetricFamily& family : metrics->families()) {
    if (family.name() != "bulkhead_device_model_" + name) continue;
    for (const v1::Sample& sample : family.samples()) {
      const auto label = sample.labels().find("device");
      if (label != sample.labels().end() && label->second == device) return sample.value();
    }
  }
  return -1;
}

absl::StatusOr<std::vector<v1::Event>> VmClient::PastEvents() const {
  ASSIGN_OR_RETURN(const std::unique_ptr<Vm> vm, Connect());
  std::vector<v1::Event> events;
  RETURN_IF_ERROR(vm->WatchEvents(/*only_past=*/true, kTimeout, [&events](const v1::Event& event) {
    events.push_back(event);
    return true;
  }));
  return events;
}

}  // namespace bulkhead::integration
