#include "integration/storm/killer.h"

#include <signal.h>

#include <algorithm>

#include "absl/time/clock.h"

namespace bulkhead::integration {

Killer::Killer(const VmProcess& vm, const KillerOptions& options, uint64_t limit)
    : vm_(vm), options_(options), limit_(limit), random_(options.seed) {
  thread_ = std::thread([this] { Run(); });
}

void Killer::Stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void Killer::Run() {
  while (!stopping_ && hits_ < limit_) {
    const double spread = absl::ToDoubleSeconds(options_.max_interval - options_.min_interval);
    std::uniform_real_distribution<double> more(0, std::max(spread, 1e-9));
    absl::SleepFor(options_.min_interval + absl::Seconds(more(random_)));
    Strike();
  }
}

void Killer::Strike() {
  std::vector<pid_t> targets;
  for (const VmProcess::Child& child : vm_.Children()) {
    const bool wanted = options_.names.empty() ||
                        std::count(options_.names.begin(), options_.names.end(), child.name) != 0;
    // One that has just been forked still has the vmm's name; a dead one has none.
    if (!wanted || child.name.empty() || child.name == "vmm" || hit_.count(child.pid) != 0)
      continue;
    targets.push_back(child.pid);
  }
  if (targets.empty()) return;
  if (options_.way != KillerOptions::Way::kKillAll) {
    std::swap(targets[0], targets[random_() % targets.size()]);
    targets.resize(1);
  }
  for (const pid_t pid : targets) {
    if (kill(pid, options_.way == KillerOptions::Way::kStop ? SIGSTOP : SIGKILL) != 0) continue;
    hit_.insert(pid);
    ++hits_;
  }
}

}  // namespace bulkhead::integration
