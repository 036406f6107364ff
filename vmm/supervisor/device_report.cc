#include "vmm/supervisor/device_report.h"

#include <limits.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "proto/channel/channel_metrics.h"
#include "vmm/process/printable.h"

namespace bulkhead::vmm {
namespace {

constexpr int kMaxMetrics = 256;
constexpr size_t kMaxMetricNameBytes = 64;
constexpr size_t kMaxMetricHelpBytes = 256;

google::protobuf::Timestamp Ago(absl::Duration age) {
  const int64_t nanoseconds = absl::GetCurrentTimeNanos() - absl::ToInt64Nanoseconds(age);
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(nanoseconds / 1'000'000'000);
  timestamp.set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
  return timestamp;
}

google::protobuf::Timestamp Now() { return Ago(absl::ZeroDuration()); }

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

absl::string_view Name(AccessPolicy policy) {
  switch (policy) {
    case AccessPolicy::kWait:
      return "wait";
    case AccessPolicy::kAllOnes:
      return "all-ones";
    case AccessPolicy::kPauseVm:
      return "pause-vm";
  }
  return "";
}

absl::string_view Name(RestartSpec::Policy policy) {
  switch (policy) {
    case RestartSpec::Policy::kNever:
      return "never";
    case RestartSpec::Policy::kOnFailure:
      return "on-failure";
    case RestartSpec::Policy::kAlways:
      return "always";
  }
  return "";
}

std::string Describe(const ResourceSpec& resource) {
  std::string what = resource.is_console ? "console" : "made by the vmm";
  if (resource.user_net.has_value()) what = absl::StrCat("network by ", resource.user_net->program);
  if (resource.is_error_link) what = "pause the VM";
  if (resource.file != nullptr) what = Printable(resource.file->path(), PATH_MAX);
  if (!resource.socket_path.empty()) {
    what = absl::StrCat("socket ", Printable(resource.socket_path, PATH_MAX));
  }
  if (resource.back_end != nullptr) {
    what = absl::StrCat("served by ", Printable(resource.back_end->binary, PATH_MAX));
  }
  return absl::StrCat(resource.name, ": ", what, resource.read_only ? " (read-only)" : "");
}

void Describe(const ProgramReport& report, v1::Program& program) {
  const ProgramReport::Figures figures = report.Read();
  program.set_path(Printable(report.path(), PATH_MAX));
  program.set_pid(figures.pid);
  program.set_starts(figures.starts);
  if (figures.starts > 0) *program.mutable_since() = Ago(figures.age);
  program.set_stopped(figures.is_stopped);
  if (!report.passes_frames()) return;
  program.mutable_lost_frames()->set_from_guest(figures.lost_from_device);
  program.mutable_lost_frames()->set_to_guest(figures.lost_to_device);
}

bool IsMetric(const v1::DeviceMetric& metric) {
  return !metric.name().empty() && metric.name().size() <= kMaxMetricNameBytes &&
         std::all_of(metric.name().begin(), metric.name().end(),
                     [](char c) {
                       return absl::ascii_islower(static_cast<unsigned char>(c)) || c == '_';
                     }) &&
         std::isfinite(metric.value());
}

}  // namespace

DeviceReport::DeviceReport(const DeviceSpec& spec, EventLog& events)
    : name_(spec.name), program_(spec.program), events_(events) {
  device_.set_name(spec.name);
  device_.set_state(v1::Device::STARTING);
  *device_.mutable_state_since() = Now();
  device_.set_binary(spec.binary.path());
  for (const std::string& arg : spec.args) device_.add_arg(arg);
  for (const ResourceSpec& resource : spec.resources) device_.add_resources(Describe(resource));
  if (spec.sandbox.cgroup != nullptr) device_.set_cgroup(spec.sandbox.cgroup->path());
  device_.set_access_policy(std::string(Name(spec.access_policy)));
  device_.set_restart_policy(std::string(Name(spec.restart.policy)));
  *device_.mutable_heartbeat()->mutable_interval() = ToProto(spec.heartbeat.interval);
  device_.mutable_heartbeat()->set_misses_until_hang(spec.heartbeat.misses);
}

v1::Device DeviceReport::device() const {
  v1::Device device;
  {
    absl::MutexLock lock(&mutex_);
    device = device_;
  }
  if (program_ != nullptr) Describe(*program_, *device.mutable_program());
  return device;
}

v1::DeviceMetrics DeviceReport::metrics() const {
  absl::MutexLock lock(&mutex_);
  return metrics_;
}

void DeviceReport::SetDescription(const DeviceDescription& description) {
  absl::MutexLock lock(&mutex_);
  device_.set_model(description.model);
  for (const DeviceDescription::Doorbell& doorbell : description.doorbells) {
    v1::DoorbellPlace& place = *device_.add_doorbells();
    place.set_region(doorbell.region);
    place.set_offset(doorbell.offset);
    place.set_size_bytes(doorbell.size_bytes);
  }
  if (!description.platform.has_value()) return;
  for (const DeviceDescription::PortRange& range : description.platform->port_ranges) {
    v1::PortPlace& place = *device_.add_ports();
    place.set_base(range.base);
    place.set_size(range.size);
  }
  device_.set_irq(description.platform->irq);
}

void DeviceReport::SetArgs(const std::vector<std::string>& args) {
  absl::MutexLock lock(&mutex_);
  device_.mutable_arg()->Assign(args.begin(), args.end());
}

void DeviceReport::SetSpare(bool has_spare) {
  absl::MutexLock lock(&mutex_);
  device_.set_has_spare(has_spare);
}

void DeviceReport::SetMetrics(const v1::DeviceMetrics& metrics) {
  v1::DeviceMetrics good;
  for (const v1::DeviceMetric& metric : metrics.metrics()) {
    if (!IsMetric(metric) || good.metrics_size() == kMaxMetrics) continue;
    v1::DeviceMetric& copy = *good.add_metrics() = metric;
    copy.set_help(Printable(metric.help(), kMaxMetricHelpBytes));
  }
  // Its values may be any: MakeMetrics() makes a histogram of them.
  if (metrics.request_latency().buckets_size() == channel::LatencyHistogram::kBuckets) {
    *good.mutable_request_latency() = metrics.request_latency();
  }
  absl::MutexLock lock(&mutex_);
  metrics_ = std::move(good);
}

void DeviceReport::SetState(v1::Device::State state, absl::string_view reason) {
  v1::Event event;
  v1::DeviceStateChanged& change = *event.mutable_device_state();
  {
    absl::MutexLock lock(&mutex_);
    device_.set_state_reason(std::string(reason));
    if (device_.state() == state) return;
    change.set_from(device_.state());
    device_.set_state(state);
    if (state != v1::Device::RUNNING) device_.set_pid(0);
    *device_.mutable_state_since() = Now();
    change.set_device(name_);
    change.set_to(state);
    change.set_reason(std::string(reason));
    change.set_generation(device_.generation());
    change.set_pid(device_.pid());
  }
  events_.Append(std::move(event));
}

void DeviceReport::Lost(absl::string_view cause) {
  absl::MutexLock lock(&mutex_);
  v1::RestartCause& restart = *device_.add_recent_restarts();
  *restart.mutable_time() = Now();
  restart.set_cause(std::string(cause));
  if (device_.recent_restarts_size() > kKeptRestarts) {
    device_.mutable_recent_restarts()->DeleteSubrange(0, 1);
  }
}

void DeviceReport::Serves(pid_t pid, uint64_t generation, const std::string& binary,
                          SandboxLayers layers) {
  absl::MutexLock lock(&mutex_);
  device_.clear_sandbox_layers();
  device_.clear_sandbox_waived();
  for (std::string& name : layers.Names()) device_.add_sandbox_layers(std::move(name));
  for (std::string& name : SandboxLayers::OfDevices().Without(layers).Names()) {
    device_.add_sandbox_waived(std::move(name));
  }
  device_.set_pid(pid);
  device_.set_generation(generation);
  device_.set_binary(binary);
  device_.mutable_heartbeat()->set_missed_in_a_row(0);
}

void DeviceReport::Recovered(absl::Duration downtime) {
  {
    absl::MutexLock lock(&mutex_);
    device_.set_restarts(device_.restarts() + 1);
    if (device_.recent_restarts_size() == 0) return;
    *device_.mutable_recent_restarts()->rbegin()->mutable_downtime() = ToProto(downtime);
  }
  LogInfo(absl::StrCat("device '", name_, "' serves again, after ",
                       absl::FormatDuration(absl::Trunc(downtime, absl::Microseconds(1)))));
}

void DeviceReport::Ended(pid_t pid, uint64_t generation, const DeviceProcessEnd& end,
                         bool expected) {
  v1::Event event;
  v1::DeviceProcessEnded& ended = *event.mutable_device_ended();
  ended.set_device(name_);
  ended.set_pid(pid);
  ended.set_generation(generation);
  (end.exit.signalled ? ended.set_signal(end.exit.code) : ended.set_exit_code(end.exit.code));
  ended.set_reason(end.reason);
  ended.set_last_lines(end.last_lines);
  ended.set_expected(expected);
  ended.set_sandbox_violation(end.violation);
  if (!end.violation.empty()) {
    absl::MutexLock lock(&mutex_);
    device_.set_sandbox_violations(device_.sandbox_violations() + 1);
  }
  events_.Append(std::move(event));
  if (expected) return;
  LogError(WithLastLines(absl::StrCat("device '", name_, "' (process ", pid, "): ", end.reason),
                         name_, end.last_lines));
}

void DeviceReport::HeartbeatAnswered(absl::Duration round_trip) {
  absl::MutexLock lock(&mutex_);
  v1::Heartbeat& heartbeat = *device_.mutable_heartbeat();
  *heartbeat.mutable_last() = Now();
  *heartbeat.mutable_round_trip() = ToProto(round_trip);
  heartbeat.set_missed_in_a_row(0);
  heartbeat.set_answered(heartbeat.answered() + 1);
}

void DeviceReport::HeartbeatMissed(uint32_t in_a_row) {
  v1::Event event;
  {
    absl::MutexLock lock(&mutex_);
    v1::Heartbeat& heartbeat = *device_.mutable_heartbeat();
    heartbeat.set_missed_in_a_row(in_a_row);
    heartbeat.set_missed(heartbeat.missed() + 1);
    event.mutable_heartbeat_missed()->set_misses_until_hang(heartbeat.misses_until_hang());
  }
  event.mutable_heartbeat_missed()->set_device(name_);
  event.mutable_heartbeat_missed()->set_missed_in_a_row(in_a_row);
  events_.Append(std::move(event));
}

void DeviceReport::PolicyActs(absl::string_view action) {
  v1::Event event;
  event.mutable_policy()->set_device(name_);
  event.mutable_policy()->set_action(std::string(action));
  events_.Append(std::move(event));
}

void DeviceReport::WasReset(absl::string_view by) {
  v1::Event event;
  event.mutable_device_reset()->set_device(name_);
  event.mutable_device_reset()->set_by(std::string(by));
  events_.Append(std::move(event));
}

}  // namespace bulkhead::vmm
