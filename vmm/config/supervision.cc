#include "vmm/config/supervision.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {
namespace {

constexpr int kMaxCrashes = 1000;
constexpr uint32_t kMaxMisses = 1000;

std::optional<FieldProblem> ReadRestart(const v1::RestartConfig& config, RestartSpec& restart) {
  switch (config.policy()) {
    case v1::RestartConfig::NEVER:
      restart.policy = RestartSpec::Policy::kNever;
      break;
    case v1::RestartConfig::ON_FAILURE:
      restart.policy = RestartSpec::Policy::kOnFailure;
      break;
    default:
      restart.policy = RestartSpec::Policy::kAlways;
  }
  if (auto problem = ReadDuration("restart.min_backoff", config.min_backoff(), absl::ZeroDuration(),
                                  absl::Hours(1), restart.min_backoff)) {
    return problem;
  }
  restart.max_backoff = std::max(restart.max_backoff, restart.min_backoff);
  if (auto problem = ReadDuration("restart.max_backoff", config.max_backoff(), restart.min_backoff,
                                  absl::Hours(1), restart.max_backoff)) {
    return problem;
  }
  if (config.max_crashes() != 0) restart.max_crashes = config.max_crashes();
  if (restart.max_crashes < -1 || restart.max_crashes > kMaxCrashes) {
    return FieldProblem{"restart.max_crashes",
                        absl::StrCat(restart.max_crashes, " is out of range (1 to ", kMaxCrashes,
                                     ", or -1 for no limit)")};
  }
  return ReadDuration("restart.crash_window", config.crash_window(), absl::Seconds(1),
                      absl::Hours(24), restart.crash_window);
}

std::optional<FieldProblem> ReadHeartbeat(const v1::HeartbeatConfig& config,
                                          HeartbeatSpec& heartbeat) {
  if (config.interval() == "0") {
    heartbeat.interval = absl::ZeroDuration();
  } else if (auto problem =
                 ReadDuration("heartbeat.interval", config.interval(), absl::Milliseconds(10),
                              absl::Hours(1), heartbeat.interval)) {
    absl::StrAppend(&problem->problem, "; \"0\" turns heartbeats off");
    return problem;
  }
  if (config.stall_timeout() == "0") {
    heartbeat.stall_timeout = absl::ZeroDuration();
  } else if (auto problem =
                 ReadDuration("heartbeat.stall_timeout", config.stall_timeout(),
                              absl::Milliseconds(10), absl::Hours(1), heartbeat.stall_timeout)) {
    absl::StrAppend(&problem->problem, "; \"0\" is no limit");
    return problem;
  }
  if (config.misses() != 0) heartbeat.misses = config.misses();
  if (heartbeat.misses <= kMaxMisses) return std::nullopt;
  return FieldProblem{"heartbeat.misses",
                      absl::StrCat(heartbeat.misses, " is out of range (1 to ", kMaxMisses, ")")};
}

}  // namespace

std::optional<FieldProblem> ReadDuration(const std::string& field, const std::string& text,
                                         absl::Duration min, absl::Duration max,
                                         absl::Duration& out) {
  if (text.empty()) return std::nullopt;
  absl::Duration duration;
  const bool is_duration = absl::ParseDuration(text, &duration);
  if (is_duration && duration >= min && duration <= max) {
    out = duration;
    return std::nullopt;
  }
  return FieldProblem{
      field,
      absl::StrCat("\"", text, is_duration ? "\" is out of range (" : "\" is not a duration (",
                   absl::FormatDuration(min), " to ", absl::FormatDuration(max),
                   is_duration ? ")" : ", with a unit as in \"500ms\" or \"5s\")")};
}

std::optional<FieldProblem> ReadSupervision(const v1::DeviceConfig& config, DeviceSpec& spec) {
  switch (config.access_policy()) {
    case v1::DeviceConfig::ALL_ONES:
      spec.access_policy = AccessPolicy::kAllOnes;
      break;
    case v1::DeviceConfig::PAUSE_VM:
      spec.access_policy = AccessPolicy::kPauseVm;
      break;
    default:
      spec.access_policy = AccessPolicy::kWait;
  }
  spec.spare = config.spare();
  if (auto problem = ReadRestart(config.restart(), spec.restart)) return problem;
  return ReadHeartbeat(config.heartbeat(), spec.heartbeat);
}

}  // namespace bulkhead::vmm
