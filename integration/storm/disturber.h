#ifndef BULKHEAD_INTEGRATION_STORM_DISTURBER_H_
#define BULKHEAD_INTEGRATION_STORM_DISTURBER_H_

#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/pid_fd.h"

namespace bulkhead::integration {

// A part of a VM that a process of its own serves: a device, or a back end.
struct DisturbedPart {
  std::string name;
  // The process that serves now; kNoProcess: there is none. Called on the disturber's thread.
  std::function<pid_t()> find;
  // A process that stands still is killed by its supervisor. Else it stands still for two seconds
  // at most.
  bool is_supervised = true;
  // False: its death is not one that guests get over, so it is only stopped.
  bool may_die = true;

  // What was done to it.
  uint64_t kills = 0;
  uint64_t hangs = 0;   // stopped, and left to its supervisor
  uint64_t pauses = 0;  // stopped, and continued soon
};

// Kills and stops processes of a VM at random moments on its own thread, in a random order in which
// each part has its turn, until it is stopped, has hit `limit` processes, or the test has failed.
// Standard error has a line for each. Fails the test if a part's process is not replaced.
class Disturber {
 public:
  struct Options {
    uint64_t limit = 0;
    uint64_t seed = 1;
    absl::Duration min_interval = absl::Milliseconds(50);
    absl::Duration max_interval = absl::Milliseconds(1000);
  };

  Disturber(std::vector<DisturbedPart> parts, const Options& options);
  ~Disturber() { Stop(); }

  uint64_t hits() const { return hits_.load(); }
  // Continues what stands still, too.
  void Stop();
  // After Stop().
  const std::vector<DisturbedPart>& parts() const { return parts_; }

 private:
  // A process that stands still until then.
  struct Standing {
    absl::Time end;
    PidFd process;
  };
  struct Turn {
    size_t part;
    pid_t last_hit = 0;
    uint64_t number = 0;
  };

  void Run();
  void Hit(Turn& turn);
  size_t CountAway();
  // Continues processes meanwhile. False: it is to stop.
  bool Sleep(absl::Duration time);
  void Continue(bool all);
  absl::Duration Between(absl::Duration least, absl::Duration most);

  std::vector<DisturbedPart> parts_;
  const Options options_;
  std::mt19937_64 random_;
  std::vector<Standing> standing_;
  std::map<size_t, pid_t> away_;  // of parts that were hit: the process that is to be replaced
  std::atomic<uint64_t> hits_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_DISTURBER_H_
