#ifndef BULKHEAD_INTEGRATION_STORM_KILLER_H_
#define BULKHEAD_INTEGRATION_STORM_KILLER_H_

#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/storm/kill_timer.h"

namespace bulkhead::integration {

// What to do to device processes while a guest works.
struct KillerOptions {
  enum class Way {
    kKill,     // SIGKILL
    kStop,     // SIGSTOP: the process hangs until its supervisor kills it
    kKillAll,  // SIGKILL to all that live, at once
    kUpgrade,  // replaced by a client of the VM, as `upgrade` says
  };
  Way way = Way::kKill;
  // The binaries whose processes may be chosen, serving or spare; empty: all.
  std::vector<std::string> names = {};
  // For kKill and kStop, instead of `binaries`: choose the process that serves this device.
  std::string serving = {};
  const KillTimer* timer = nullptr;  // with kKill and `serving`: takes their times. Borrowed
  std::string control_socket = {};   // of the VM; for `serving` and kUpgrade
  // The random time between two hits; a successor may be hit while it starts or attaches.
  absl::Duration min_interval = absl::ZeroDuration();
  absl::Duration max_interval = absl::Milliseconds(40);
  uint64_t seed = 1;
  struct Upgrade {
    std::string device = {};
    std::vector<std::string> versions = {};  // binaries to change to, in turn
    // Binaries to try now and then, in turn: each must be refused, and change nothing.
    std::vector<std::string> misfits = {};
  };
  Upgrade upgrade = {};
};

// Hits (kills, stops or replaces) device processes of a VM at random moments, each process once at
// most, on its own thread, until it is stopped or has hit `limit` processes.
class Killer {
 public:
  // `vm` is borrowed; only its Children() is used.
  Killer(const VmProcess& vm, const KillerOptions& options, uint64_t limit);
  ~Killer() { Stop(); }

  // The number of processes hit so far.
  uint64_t hits() const { return hits_.load(); }
  void Stop();
  // After Stop(): upgrades that failed or were wrongly accepted.
  const std::vector<std::string>& problems() const { return problems_; }
  // After Stop(), with a timer: the times from each kill to the next completed request.
  const std::vector<absl::Duration>& times() const { return times_; }

 private:
  void Run();
  std::vector<pid_t> Targets();
  // A process other than the last one; 0: there is none yet.
  pid_t ServingProcess();
  void Strike(std::vector<pid_t> targets);
  void KillAndTakeTime(pid_t pid);
  void Upgrade();
  void TryMisfit(const std::string& binary);

  const VmProcess& vm_;
  const KillerOptions options_;
  const uint64_t limit_;
  std::mt19937_64 random_;
  std::set<pid_t> hit_;  // and still there: numbers are used again after some thousand kills
  const VmClient client_;
  uint64_t upgrades_tried_ = 0;
  std::vector<std::string> problems_;
  pid_t last_hit_ = 0;
  std::vector<absl::Duration> times_;
  std::atomic<uint64_t> hits_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_KILLER_H_
