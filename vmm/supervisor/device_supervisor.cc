#include "vmm/supervisor/device_supervisor.h"

#include <stddef.h>

#include <optional>
#include <thread>
#include <utility>

#include "absl/memory/memory.h"
#include "base/status_macros.h"
#include "vmm/supervisor/command_queue.h"
#include "vmm/supervisor/supervision_table.h"
#include "vmm/supervisor/supervisor_thread.h"

namespace bulkhead::vmm {

using Event = SupervisionEvent;

absl::StatusOr<std::unique_ptr<DeviceSupervisor>> DeviceSupervisor::Create(
    DeviceSpec spec, const GuestRam& ram, ProcessMonitor& monitor,
    const SupervisorOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<SupervisorThread> thread,
                   SupervisorThread::Create(std::move(spec), ram, monitor, options));
  return absl::WrapUnique(new DeviceSupervisor(std::move(thread)));
}

DeviceSupervisor::DeviceSupervisor(std::unique_ptr<SupervisorThread> thread)
    : thread_(std::move(thread)) {}
DeviceSupervisor::~DeviceSupervisor() = default;

RemoteDevice& DeviceSupervisor::device() { return thread_->device(); }
v1::Device DeviceSupervisor::Describe() const { return thread_->report().device(); }
v1::DeviceMetrics DeviceSupervisor::Metrics() const { return thread_->report().metrics(); }

void DeviceSupervisor::RefreshMetrics(std::function<void()> done) {
  thread_->commands().SubmitRefresh(std::move(done));
}

void DeviceSupervisor::Restart(std::string binary, bool discard_state, Done done) {
  thread_->commands().Submit({.event = discard_state ? Event::kRestartAnew : Event::kRestart,
                              .binary = std::move(binary),
                              .done = std::move(done)});
}
void DeviceSupervisor::Resize(uint64_t bytes, Done done) {
  thread_->commands().Submit(
      {.event = Event::kRestart, .resize_bytes = bytes, .done = std::move(done)});
}
void DeviceSupervisor::ChangeFlags(std::map<std::string, std::string> flags, Done done) {
  thread_->commands().Submit(
      {.event = Event::kRestart, .flags = std::move(flags), .done = std::move(done)});
}
void DeviceSupervisor::Reset(Done done) {
  thread_->commands().Submit({.event = Event::kReset, .done = std::move(done)});
}
void DeviceSupervisor::Stop(Done done) {
  thread_->commands().Submit({.event = Event::kStop, .done = std::move(done)});
}
void DeviceSupervisor::Start(Done done) {
  thread_->commands().Submit({.event = Event::kStart, .done = std::move(done)});
}
void DeviceSupervisor::ResetForReboot(Done done) {
  thread_->commands().Submit(
      {.event = Event::kResetForReboot, .by = "the guest's reboot", .done = std::move(done)});
}

void DeviceSupervisor::Shutdown() { thread_->commands().Shutdown(); }
void DeviceSupervisor::AwaitShutdown() { thread_->commands().AwaitEnd(); }
const char* DeviceSupervisor::step() const { return thread_->step(); }

absl::StatusOr<std::vector<std::unique_ptr<DeviceSupervisor>>> StartDevices(
    std::vector<DeviceSpec> specs, const GuestRam& ram, ProcessMonitor& monitor,
    const SupervisorOptions& options) {
  using Result = absl::StatusOr<std::unique_ptr<DeviceSupervisor>>;
  std::vector<std::optional<Result>> results(specs.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < specs.size(); ++i) {
    threads.emplace_back([&, i] {
      results[i] = DeviceSupervisor::Create(std::move(specs[i]), ram, monitor, options);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::unique_ptr<DeviceSupervisor>> supervisors;
  absl::Status first_error;
  for (std::optional<Result>& result : results) {
    first_error.Update(result->status());
    if (result->ok()) supervisors.push_back(**std::move(result));
  }
  if (first_error.ok()) return supervisors;
  for (const auto& supervisor : supervisors) supervisor->Shutdown();  // all at once
  return first_error;
}

}  // namespace bulkhead::vmm
