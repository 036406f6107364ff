#ifndef BULKHEAD_VMM_MACHINE_START_GUARD_H_
#define BULKHEAD_VMM_MACHINE_START_GUARD_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// While the VM is created, a signal that requests its end ends the process at once, whatever the
// start waits for: a device that does not answer, a kernel file on slow storage, a library. The
// guard's own thread kills the device processes, calls the exit action, logs the reason, and calls
// _exit(2). No guest code has run, so nothing is lost. Thread-safe.
class StartGuard {
 public:
  // `fd` and `take`: as in Machine::OutsideEnd. Errors: as eventfd(2), pthread_create(3).
  static absl::StatusOr<std::unique_ptr<StartGuard>> Begin(
      int fd, std::function<std::optional<VmEnd>()> take);
  // Call when the start has succeeded or failed. A pending signal that the guard has not taken
  // stays pending. If the guard has taken one, this does not return.
  ~StartGuard();

  // Sets the action that undoes what would outlive _exit(2). Called on the guard's thread; must not
  // block.
  void SetExitAction(std::function<void()> action);

 private:
  struct Shared;
  explicit StartGuard(std::shared_ptr<Shared> shared);

  const std::shared_ptr<Shared> shared_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_START_GUARD_H_
