#include "integration/storm/killer.h"

#include <signal.h>

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace bulkhead::integration {
namespace {

constexpr uint64_t kUpgradesPerMisfit = 5;

}  // namespace

Killer::Killer(const VmProcess& vm, const KillerOptions& options, uint64_t limit)
    : vm_(vm),
      options_(options),
      limit_(limit),
      random_(options.seed),
      client_(options.control_socket) {
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
    // Asked for before the wait: the VM has done with answering when the process is hit.
    const pid_t serving = options_.serving.empty() ? 0 : ServingProcess();
    absl::SleepFor(options_.min_interval + absl::Seconds(more(random_)));
    if (options_.way == KillerOptions::Way::kUpgrade) {
      Upgrade();
    } else if (!options_.serving.empty()) {
      if (serving == 0) continue;
      if (options_.timer != nullptr) {
        KillAndTakeTime(serving);
      } else {
        Strike({serving});
      }
    } else {
      Strike(Targets());
    }
  }
}

void Killer::Upgrade() {
  const KillerOptions::Upgrade& upgrade = options_.upgrade;
  const uint64_t number = upgrades_tried_++;
  if (!upgrade.misfits.empty() && number % kUpgradesPerMisfit == kUpgradesPerMisfit - 1) {
    TryMisfit(upgrade.misfits[number / kUpgradesPerMisfit % upgrade.misfits.size()]);
  }
  const std::string& version = upgrade.versions[number % upgrade.versions.size()];
  const absl::StatusOr<v1::Device> device = client_.RestartDevice(upgrade.device, version);
  if (!device.ok()) {
    problems_.push_back(absl::StrCat("an upgrade failed: ", device.status().ToString()));
  } else if (device->binary() != version) {
    problems_.push_back(absl::StrCat(device->binary(), " serves after an upgrade to ", version));
  }
  ++hits_;
}

void Killer::TryMisfit(const std::string& binary) {
  const std::string& name = options_.upgrade.device;
  const absl::StatusOr<v1::Device> before = client_.GetDevice(name);
  const absl::Status refusal = client_.RestartDevice(name, binary).status();
  const absl::StatusOr<v1::Device> after = client_.GetDevice(name);
  if (!absl::IsFailedPrecondition(refusal)) {
    problems_.push_back(absl::StrCat("an upgrade to ", binary, ": ", refusal.ToString()));
  }
  if (!before.ok() || !after.ok() || before->pid() != after->pid() ||
      before->generation() != after->generation() || before->binary() != after->binary() ||
      after->state() != v1::Device::RUNNING) {
    problems_.push_back(absl::StrCat("a refused upgrade to ", binary, " changed something"));
  }
}

pid_t Killer::ServingProcess() {
  const absl::StatusOr<v1::Device> device = client_.GetDevice(options_.serving);
  if (!device.ok() || device->state() != v1::Device::RUNNING) return 0;
  return device->pid() == last_hit_ ? 0 : device->pid();
}

void Killer::KillAndTakeTime(pid_t pid) {
  const absl::StatusOr<absl::Duration> time = options_.timer->Kill(pid);
  if (absl::IsNotFound(time.status())) return;  // it has just been replaced
  last_hit_ = pid;
  ++hits_;
  if (time.ok()) {
    times_.push_back(*time);
  } else {
    problems_.push_back(time.status().ToString());
  }
}

std::vector<pid_t> Killer::Targets() {
  std::vector<pid_t> targets;
  const std::vector<VmProcess::Child> children = vm_.Children();
  std::erase_if(hit_, [&](pid_t pid) {
    return std::none_of(children.begin(), children.end(),
                        [&](const VmProcess::Child& child) { return child.pid == pid; });
  });
  for (const VmProcess::Child& child : children) {
    const bool wanted = options_.names.empty() ||
                        std::count(options_.names.begin(), options_.names.end(), child.name) != 0;
    // One that has just been forked still has the vmm's name; a dead one has none.
    if (!wanted || child.name.empty() || child.name == "vmm" || hit_.count(child.pid) != 0)
      continue;
    targets.push_back(child.pid);
  }
  return targets;
}

void Killer::Strike(std::vector<pid_t> targets) {
  if (targets.empty()) return;
  if (options_.way != KillerOptions::Way::kKillAll) {
    std::swap(targets[0], targets[random_() % targets.size()]);
    targets.resize(1);
  }
  for (const pid_t pid : targets) {
    if (kill(pid, options_.way == KillerOptions::Way::kStop ? SIGSTOP : SIGKILL) != 0) continue;
    hit_.insert(pid);
    last_hit_ = pid;
    ++hits_;
  }
}

}  // namespace bulkhead::integration
