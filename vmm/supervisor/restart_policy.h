#ifndef BULKHEAD_VMM_SUPERVISOR_RESTART_POLICY_H_
#define BULKHEAD_VMM_SUPERVISOR_RESTART_POLICY_H_

#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// Decides what follows when a device's process has ended unasked, or could not be started. Pure:
// time and randomness come from outside. Thread-compatible.
//
// The first restart follows at once. The next one waits for min_backoff, and each further one twice
// as long, up to max_backoff, give or take a fifth, so that devices that fail together do not come
// back together. After a process that served for kStableRun the delays begin anew. max_crashes
// within crash_window are too many, however long each process served.
class RestartPolicy {
 public:
  static constexpr absl::Duration kStableRun = absl::Seconds(10);

  // `random` gives numbers from 0 up to 1.
  RestartPolicy(const RestartSpec& spec, std::function<double()> random)
      : spec_(spec), random_(std::move(random)) {}

  struct Decision {
    enum class Action { kRestart, kStop, kFail };
    Action action = Action::kFail;
    absl::Duration delay;  // before the restart
    std::string reason;    // why not to restart: "5 crashes in 60s"
  };
  // A process ended at `now`, after it had served for `served`; zero: it never did. `clean`: by
  // itself, with exit code 0.
  Decision OnEnd(absl::Time now, absl::Duration served, bool clean);

  // A command has intervened: past crashes do not count.
  void Forget();

 private:
  absl::Duration NextDelay();

  const RestartSpec spec_;
  const std::function<double()> random_;
  std::deque<absl::Time> ends_;  // within the crash window, oldest first
  absl::Duration backoff_;       // of the next restart, but for the jitter; zero: at once
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_RESTART_POLICY_H_
