#ifndef BULKHEAD_VMM_MACHINE_START_GUARD_H_
#define BULKHEAD_VMM_MACHINE_START_GUARD_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// While the VM is put together, a signal that asks for its end ends the process at once, whatever
// the start waits for: a device that does not answer, a kernel file on slow storage, a library. Its
// own thread kills the device processes, does the last act, says why, and leaves by _exit(2). No
// guest code has run, so nothing is lost. Thread-safe.
class StartGuard {
 public:
  // `take` as in Machine::OutsideEnd; `fd` is readable when there may be a signal. Errors: as
  // eventfd(2), pthread_create(3).
  static absl::StatusOr<std::unique_ptr<StartGuard>> Begin(
      int fd, std::function<std::optional<VmEnd>()> take);
  // The start is over, one way or the other. A signal that has come and was not taken is left for
  // those who look next; for one that was taken this does not return.
  ~StartGuard();

  // What _exit(2) would leave behind. Called on the guard's thread; must not block.
  void SetLastAct(std::function<void()> act);

 private:
  struct Shared;
  explicit StartGuard(std::shared_ptr<Shared> shared);

  const std::shared_ptr<Shared> shared_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_START_GUARD_H_
