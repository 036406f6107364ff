#include "vmm/vcpu/vcpu_threads.h"

#include <stdint.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/steady_time.h"
#include "vmm/vcpu/exit_handler.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLastStopTimeout = absl::Seconds(10);

absl::Status StuckError(uint32_t index, absl::string_view what, absl::Duration timeout) {
  return absl::DeadlineExceededError(
      absl::StrCat("vCPU ", index, " did not ", what, " within ", absl::FormatDuration(timeout)));
}

}  // namespace

VcpuThreads::VcpuThreads(std::vector<std::unique_ptr<Vcpu>> vcpus, AddressSpace& memory,
                         AddressSpace& ports, VmEndLatch& end, WaitControl waits,
                         const std::function<absl::Status()>& confine)
    : waits_(std::move(waits)) {
  for (uint32_t index = 0; index < vcpus.size(); ++index) {
    threads_.push_back(std::make_unique<VcpuThread>(
        index, std::move(vcpus[index]), ExitHandler(index, memory, ports), end, confine));
  }
}

VcpuThreads::~VcpuThreads() {
  const absl::Status stopped = Stop(kLastStopTimeout);
  if (stopped.ok()) return;
  LogError(absl::StrCat(stopped.message(), ": ending the process"));
  _exit(static_cast<int>(EndReason::kVmmError));
}

absl::Status VcpuThreads::Start() {
  started_ = true;
  // vCPU 0 starts last: the others wait for its INIT and SIPI. So if a thread cannot be started, no
  // guest instruction has been executed.
  for (auto thread = threads_.rbegin(); thread != threads_.rend(); ++thread) {
    if (absl::Status started = (*thread)->Start(); !started.ok()) {
      Stop(kLastStopTimeout).IgnoreError();
      return started;
    }
  }
  return absl::OkStatus();
}

absl::Status VcpuThreads::Pause(absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  // In this order: a thread that finds its access cancelled also finds the request, and parks.
  for (const auto& thread : threads_) thread->RequestPause();
  waits_.cancel();
  for (const auto& thread : threads_) {
    if (!thread->AwaitPaused(deadline)) {
      Resume();
      return StuckError(thread->index(), "pause", timeout);
    }
  }
  return absl::OkStatus();
}

absl::Status VcpuThreads::Hold(absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  for (const auto& thread : threads_) thread->RequestPause();
  for (const auto& thread : threads_) {
    if (!thread->AwaitOutsideGuest(deadline)) {
      Resume();
      return StuckError(thread->index(), "leave the guest", timeout);
    }
  }
  return absl::OkStatus();
}

void VcpuThreads::Resume() {
  // In this order: a thread that resumes its access can wait for it.
  waits_.resume();
  for (const auto& thread : threads_) thread->Resume();
}

bool VcpuThreads::ParkWhilePaused(uint32_t vcpu) {
  return vcpu < threads_.size() && threads_[vcpu]->ParkWhilePaused();
}

std::vector<std::optional<ThreadTimes>> VcpuThreads::Times() const {
  std::vector<std::optional<ThreadTimes>> times;
  for (const auto& thread : threads_) {
    const pid_t id = thread->thread_id();
    times.push_back(id == 0 ? std::nullopt : ReadThreadTimes(id));
  }
  return times;
}

absl::Status VcpuThreads::Stop(absl::Duration timeout) {
  if (!started_) return absl::OkStatus();
  const absl::Time deadline = SteadyNow() + timeout;
  for (const auto& thread : threads_) thread->RequestStop();
  waits_.cancel();
  for (const auto& thread : threads_) {
    if (!thread->Join(deadline)) return StuckError(thread->index(), "stop", timeout);
  }
  started_ = false;
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
