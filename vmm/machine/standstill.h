#ifndef BULKHEAD_VMM_MACHINE_STANDSTILL_H_
#define BULKHEAD_VMM_MACHINE_STANDSTILL_H_

#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace bulkhead::vmm {

// Makes a VM stand still while clients or devices request it, in one of two ways:
//   paused  requested by clients, and by devices whose access policy is PAUSE_VM: no guest code
//           runs, and waiting accesses are parked
//   held    requested by devices that do not answer an access: no guest code runs, but accesses
//           wait on for the answer, which ends the hold
// A pause has priority over a hold. The guest's clock is stopped meanwhile. Thread-compatible.
class Standstill {
 public:
  // The VM's operations. Errors of `pause` and `hold`: as VcpuThreads; the VM then runs.
  struct Vm {
    std::function<absl::Status()> pause;
    std::function<absl::Status()> hold;
    std::function<void()> resume;
    std::function<void()> stop_clock;      // called while no vCPU executes guest code
    std::function<void()> continue_clock;  // likewise
    std::function<void(std::string reason)> report_paused;
    std::function<void()> report_running;
  };

  explicit Standstill(Vm vm) : vm_(std::move(vm)) {}

  // `requester` is a device, or empty for the clients; `why` is for people. Errors: those of
  // Vm::pause; the pause is then not added.
  absl::Status AddPause(const std::string& requester, std::string why);
  // Errors: those of Vm::hold.
  absl::Status RemovePause(const std::string& requester);

  // Holds are counted: each AddHold() needs a RemoveHold(), also after an error. Errors: those of
  // Vm::hold.
  absl::Status AddHold(const std::string& device);
  absl::Status RemoveHold(const std::string& device);

  // Call when the VM has new vCPUs that have not been started: if a pause or hold is requested,
  // they will not run. Errors: those of Vm::pause and Vm::hold.
  absl::Status OnNewVcpus();

  bool is_requested() const { return !pauses_.empty() || !holds_.empty(); }
  // All reasons, for people. Empty if none is requested.
  std::string reason() const;

 private:
  enum class Motion { kRuns, kHeld, kPaused };

  Motion requested() const;
  // Makes the VM do what is requested.
  absl::Status Apply();
  void Resume();

  const Vm vm_;
  Motion motion_ = Motion::kRuns;
  std::map<std::string, std::string> pauses_;  // requester to reason
  std::map<std::string, int> holds_;           // device to number of holds
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_STANDSTILL_H_
