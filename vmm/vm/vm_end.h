#ifndef BULKHEAD_VMM_VM_VM_END_H_
#define BULKHEAD_VMM_VM_VM_END_H_

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/event_fd.h"

namespace bulkhead::vmm {

// Why a VM ended. The value is the exit code of the vmm process: scripts rely on it.
enum class EndReason : int {
  kPowerOff = 0,          // the guest powered off (ACPI S5)
  kVmmError = 1,          // the vmm or its host failed
  kConfigError = 2,       // the configuration or command line is wrong; no VM was started
  kReset = 3,             // the guest asked for a reset (ACPI reset register)
  kTripleFault = 4,       // the guest's processor shut down
  kGuestNotRunnable = 5,  // KVM or the processor could not run the guest any further
  kStopped = 6,           // requested from outside: by a signal or the control plane
  kPanic = 7,             // the guest's kernel reported that it has crashed
  kWatchdog = 8,          // the guest's watchdog expired
};

// "power-off", "reset", ...
absl::string_view Name(EndReason reason);

struct VmEnd {
  EndReason reason = EndReason::kVmmError;
  std::string message;  // what happened, for a person; may be empty
};

// The end of one VM. Several threads may report an end at the same time (two vCPUs, a signal, a
// device policy): the first report decides, the others are ignored. Thread-safe.
class VmEndLatch {
 public:
  // Errors: as eventfd(2).
  static absl::StatusOr<std::unique_ptr<VmEndLatch>> Create();

  void Report(VmEnd end);
  // Cheap: vCPU threads call it after every exit.
  bool reported() const { return reported_.load(std::memory_order_acquire); }
  // Readable from the first report on.
  int fd() const { return event_.fd(); }
  // The first report. Call once reported() is true.
  VmEnd end() const;

 private:
  explicit VmEndLatch(EventFd event) : event_(std::move(event)) {}

  const EventFd event_;
  mutable absl::Mutex mutex_;
  VmEnd end_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> reported_{false};  // written under `mutex_`
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_END_H_
