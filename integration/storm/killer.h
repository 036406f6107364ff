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
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {

// What happens to device processes while a guest works.
struct KillerOptions {
  enum class Way {
    kKill,     // SIGKILL
    kStop,     // SIGSTOP: the process hangs until somebody notices
    kKillAll,  // SIGKILL to all that live, at once
  };
  Way way = Way::kKill;
  // The binaries whose processes are chosen from; empty: all.
  std::vector<std::string> names = {};
  // Time between two, at random; a successor may be hit while it starts or attaches.
  absl::Duration min_interval = absl::ZeroDuration();
  absl::Duration max_interval = absl::Milliseconds(40);
  uint64_t seed = 1;
};

// Hits device processes of a VM at random moments, each process once at most, on a thread of its
// own, until it is stopped or `limit` processes were hit.
class Killer {
 public:
  // `vm` is borrowed; only its Children() is used.
  Killer(const VmProcess& vm, const KillerOptions& options, uint64_t limit);
  ~Killer() { Stop(); }

  // How many processes were hit so far.
  uint64_t hits() const { return hits_.load(); }
  void Stop();

 private:
  void Run();
  void Strike();

  const VmProcess& vm_;
  const KillerOptions options_;
  const uint64_t limit_;
  std::mt19937_64 random_;
  std::set<pid_t> hit_;  // ends as a set of the VM's dead: process numbers are not used again soon
  std::atomic<uint64_t> hits_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_KILLER_H_
