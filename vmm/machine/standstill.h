#ifndef BULKHEAD_VMM_MACHINE_STANDSTILL_H_
#define BULKHEAD_VMM_MACHINE_STANDSTILL_H_

#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace bulkhead::vmm {

// Makes a VM stand still for as long as anybody wants it to. Two ways:
//   paused  by clients, and by devices whose access policy says so: no guest code runs, and the
//           accesses that wait are parked
//   held    by devices that keep the guest waiting: no guest code runs, but accesses go on waiting,
//           for an answer that ends the hold
// A pause takes precedence over a hold. The guest's clock stands meanwhile. Thread-compatible.
class Standstill {
 public:
  // What is done with the VM. Errors of `pause` and `hold`: as VcpuThreads; the VM runs then.
  struct Vm {
    std::function<absl::Status()> pause;
    std::function<absl::Status()> hold;
    std::function<void()> resume;
    std::function<void()> stop_clock;      // no vCPU executes guest code then
    std::function<void()> continue_clock;  // likewise
    std::function<void(std::string reason)> report_paused;
    std::function<void()> report_running;
  };

  explicit Standstill(Vm vm) : vm_(std::move(vm)) {}

  // `who` is a device, or empty for the clients; `why` is for people. Errors: those of Vm::pause;
  // nothing has changed then.
  absl::Status AddPause(const std::string& who, std::string why);
  // Errors: those of Vm::hold.
  absl::Status RemovePause(const std::string& who);

  // Each AddHold() has its RemoveHold(). Errors: those of Vm::hold; it counts nevertheless.
  absl::Status AddHold(const std::string& device);
  absl::Status RemoveHold(const std::string& device);

  // The VM's vCPUs are new and have not been started: they stand still if anybody wants them to.
  // Errors: those of Vm::pause and Vm::hold.
  absl::Status OnNewVcpus();

  bool is_wanted() const { return !pauses_.empty() || !holds_.empty(); }
  // All reasons, for people. Empty: nobody wants it.
  std::string reason() const;

 private:
  enum class Motion { kRuns, kHeld, kPaused };

  Motion wanted() const;
  // Makes the VM do what is wanted.
  absl::Status Follow();
  void Resume();

  const Vm vm_;
  Motion motion_ = Motion::kRuns;
  std::map<std::string, std::string> pauses_;  // who to why
  std::map<std::string, int> holds_;           // by device: how many wait for it
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_STANDSTILL_H_
