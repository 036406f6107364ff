#ifndef BULKHEAD_INTEGRATION_STORM_STORM_H_
#define BULKHEAD_INTEGRATION_STORM_STORM_H_

#include <stdint.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "integration/storm/killer.h"

namespace bulkhead::integration {

// A guest works without a pause and checks every byte, while its device processes are killed.
struct StormOptions {
  uint64_t kills = 20;  // processes hit, at least; then the guest may end
  // `control_socket` and `upgrade` are filled in: kUpgrade replaces the disk, "disk0".
  KillerOptions killer = {};
  bool spare = false;                           // a warm spare for each device
  std::vector<std::string> guest_options = {};  // bare metal: of the program disk_storm, "depth=4"
  // Bare metal: all of the guest's RAM, which is set aside at the start and made of these pages.
  std::string memory = "64M";
  std::string hugepages = "none";
  absl::Duration time_limit = absl::Minutes(5);
  // Called now and then, with the number of processes hit so far.
  std::function<void(uint64_t)> on_progress = [](uint64_t) {};
};

struct StormReport {
  uint64_t kills = 0;
  uint64_t requests = 0;  // that the guest completed
  uint64_t failed = 0;    // requests with an error
  uint64_t wrong_bytes = 0;
  // Bare metal, if the process that serves the disk is killed: the times from each kill to the next
  // request that the guest gets back.
  std::vector<absl::Duration> first_completions;
  // The times from the loss of a process to RUNNING, of all devices.
  std::vector<absl::Duration> recoveries;
  // The longest time without any completion (Linux: of one request).
  absl::Duration longest_stall;
  absl::Duration duration;
  // Other problems: "the guest's kernel log has errors: ..."
  std::vector<std::string> problems;

  bool good() const { return failed == 0 && wrong_bytes == 0 && problems.empty(); }
};

// The program disk_storm on virtio-blk: every completed write is on the disk afterwards, every
// completion comes once. Errors: the VM did not start or did not end.
absl::StatusOr<StormReport> RunBareMetalStorm(const StormOptions& options);

// A Linux guest with console, disk and entropy source, running diskstorm: no request fails, no
// byte is wrong, its kernel log has no error, its uptime is unbroken, all devices work afterwards.
absl::StatusOr<StormReport> RunLinuxStorm(const StormOptions& options);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_STORM_H_
