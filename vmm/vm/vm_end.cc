#include "vmm/vm/vm_end.h"

#include "base/status_macros.h"

namespace bulkhead::vmm {

absl::string_view Name(EndReason reason) {
  switch (reason) {
    case EndReason::kPowerOff:
      return "power-off";
    case EndReason::kVmmError:
      return "vmm error";
    case EndReason::kConfigError:
      return "configuration error";
    case EndReason::kReset:
      return "reset";
    case EndReason::kTripleFault:
      return "triple fault";
    case EndReason::kGuestNotRunnable:
      return "guest not runnable";
    case EndReason::kStopped:
      return "stopped";
    case EndReason::kPanic:
      return "guest panic";
    case EndReason::kWatchdog:
      return "watchdog";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<VmEndLatch>> VmEndLatch::Create() {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return std::unique_ptr<VmEndLatch>(new VmEndLatch(std::move(event)));
}

void VmEndLatch::Report(VmEnd end) {
  absl::MutexLock lock(&mutex_);
  if (reported_.load(std::memory_order_relaxed)) return;
  end_ = std::move(end);
  // release: a thread that sees true (acquire in reported()) also sees all that the reporter did
  // before.
  reported_.store(true, std::memory_order_release);
  event_.Signal();
}

VmEnd VmEndLatch::end() const {
  absl::MutexLock lock(&mutex_);
  return end_;
}

}  // namespace bulkhead::vmm
