#include "tools/vmctl/top_sample.h"

#include <stdint.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {
namespace {

using Labels = std::map<std::string, std::string>;

// The samples of one reading, by name and labels.
class Figures {
 public:
  explicit Figures(const v1::VmMetrics& metrics) {
    for (const v1::MetricFamily& family : metrics.families()) {
      for (const v1::Sample& sample : family.samples()) {
        Labels labels(sample.labels().begin(), sample.labels().end());
        labels.erase("model");  // a device has one
        samples_.try_emplace({family.name(), std::move(labels)}, &sample);
      }
    }
  }

  const v1::Sample* Find(const std::string& name, const Labels& labels) const {
    const auto sample = samples_.find({name, labels});
    return sample == samples_.end() ? nullptr : sample->second;
  }

 private:
  std::map<std::pair<std::string, Labels>, const v1::Sample*> samples_;
};

double Rise(double before, double now) {
  const double rise = now >= before ? now - before : now;
  return std::isfinite(rise) ? std::max(rise, 0.0) : 0.0;
}

// Two readings, and how far apart they are.
class Comparison {
 public:
  Comparison(const TopReading& before, const TopReading& now)
      : before_(before.metrics),
        now_(now.metrics),
        seconds_(std::max(absl::ToDoubleSeconds(now.steady_time - before.steady_time), 1e-3)) {}

  std::optional<double> Total(const std::string& name, const Labels& labels) const {
    const v1::Sample* const sample = now_.Find(name, labels);
    if (sample == nullptr) return std::nullopt;
    return sample->value();
  }

  std::optional<double> RiseOf(const std::string& name, const Labels& labels) const {
    const std::optional<double> now = Total(name, labels);
    if (!now.has_value()) return std::nullopt;
    const v1::Sample* const before = before_.Find(name, labels);
    return Rise(before == nullptr ? 0 : before->value(), *now);
  }

  // A second; of a counter in seconds, a share of the time.
  std::optional<double> Rate(const std::string& name, const Labels& labels) const {
    const std::optional<double> rise = RiseOf(name, labels);
    if (!rise.has_value()) return std::nullopt;
    return *rise / seconds_;
  }

  const v1::Histogram* HistogramBefore(const std::string& name, const Labels& labels) const {
    const v1::Sample* const sample = before_.Find(name, labels);
    return sample == nullptr ? nullptr : &sample->histogram();
  }
  const v1::Histogram* HistogramNow(const std::string& name, const Labels& labels) const {
    const v1::Sample* const sample = now_.Find(name, labels);
    return sample == nullptr ? nullptr : &sample->histogram();
  }

 private:
  const Figures before_;
  const Figures now_;
  const double seconds_;
};

double Percent(double share) { return std::clamp(share * 100, 0.0, 100.0); }

TopVcpu VcpuOf(const Comparison& comparison, uint32_t index) {
  TopVcpu vcpu;
  vcpu.set_index(index);
  const Labels labels = {{"vcpu", absl::StrCat(index)}};
  const auto by_reason = [&](const char* reason) {
    Labels with_reason = labels;
    with_reason["reason"] = reason;
    return comparison.Rate("bulkhead_vcpu_exits_by_reason_total", with_reason);
  };
  if (const auto rate = comparison.Rate("bulkhead_vcpu_exits_total", labels)) {
    vcpu.set_exits_per_second(*rate);
  }
  if (const auto rate = by_reason("mmio")) vcpu.set_mmio_exits_per_second(*rate);
  if (const auto rate = by_reason("port")) vcpu.set_port_exits_per_second(*rate);
  if (const auto rate = by_reason("halt")) vcpu.set_halt_exits_per_second(*rate);
  if (const auto rate = by_reason("interrupt")) vcpu.set_interrupt_exits_per_second(*rate);
  const auto processor = comparison.Rate("bulkhead_vcpu_processor_seconds_total", labels);
  const auto guest = comparison.Rate("bulkhead_vcpu_guest_seconds_total", labels);
  if (guest.has_value()) vcpu.set_guest_percent(Percent(*guest));
  if (processor.has_value() && guest.has_value()) {
    vcpu.set_host_percent(Percent(*processor - *guest));
  }
  if (const auto share = comparison.Rate("bulkhead_vcpu_halted_seconds_total", labels)) {
    vcpu.set_halted_percent(Percent(*share));
  }
  return vcpu;
}

// The sum of the rates of those that the device has; empty: it has none of them.
std::optional<double> ModelRate(const Comparison& comparison, const std::string& device,
                                std::initializer_list<const char*> names) {
  std::optional<double> sum;
  for (const char* name : names) {
    const std::optional<double> rate = comparison.Rate(
        absl::StrCat("bulkhead_device_model_", name, "_total"), {{"device", device}});
    if (rate.has_value()) sum = sum.value_or(0) + *rate;
  }
  return sum;
}

void SetTraffic(const Comparison& comparison, TopDevice& device) {
  const std::string& name = device.name();
  if (const auto rate =
          ModelRate(comparison, name,
                    {"reads", "writes", "flushes", "discards", "write_zeroes", "other_requests",
                     "sent_frames", "received_frames", "requests"})) {
    device.set_requests_per_second(*rate);
  }
  // A console receives what is typed, a network what others send: both are for the guest.
  if (const auto rate = ModelRate(comparison, name,
                                  {"read_bytes", "received_bytes", "to_guest_bytes", "bytes"})) {
    device.set_to_guest_bytes_per_second(*rate);
  }
  if (const auto rate =
          ModelRate(comparison, name,
                    {"written_bytes", "sent_bytes", "to_host_bytes", "transmitted_bytes"})) {
    device.set_from_guest_bytes_per_second(*rate);
  }
  if (const auto rate = ModelRate(comparison, name, {"doorbells"})) {
    device.set_doorbells_per_second(*rate);
  }
  if (const auto rate = ModelRate(comparison, name, {"msix_interrupts", "line_interrupts"})) {
    device.set_interrupts_per_second(*rate);
  }
  if (const auto rate =
          ModelRate(comparison, name, {"limited", "send_limited", "receive_limited"})) {
    device.set_limited_per_second(*rate);
  }
}

struct Latency {
  double mean_seconds = 0;
  double percentile_seconds = std::numeric_limits<double>::infinity();  // the 99th: an upper bound
};

// Of what a device's histogram has counted in the interval; empty: nothing.
std::optional<Latency> LatencyOf(const Comparison& comparison, const std::string& histogram,
                                 const std::string& device) {
  const v1::Histogram* const now = comparison.HistogramNow(histogram, {{"device", device}});
  const v1::Histogram* before = comparison.HistogramBefore(histogram, {{"device", device}});
  if (now == nullptr) return std::nullopt;
  static const v1::Histogram kNone;
  const bool continues = before != nullptr && before->buckets_size() == now->buckets_size() &&
                         before->count() <= now->count();
  if (!continues) before = &kNone;
  const uint64_t count = now->count() - before->count();
  if (count == 0) return std::nullopt;
  Latency latency;
  latency.mean_seconds = Rise(before->sum(), now->sum()) / static_cast<double>(count);
  for (int i = 0; i < now->buckets_size(); ++i) {
    const uint64_t earlier = continues ? before->buckets(i).count() : 0;
    const double below =
        Rise(static_cast<double>(earlier), static_cast<double>(now->buckets(i).count()));
    if (below < 0.99 * static_cast<double>(count)) continue;
    latency.percentile_seconds = now->buckets(i).upper_bound();
    break;
  }
  return latency;
}

void SetAccesses(const Comparison& comparison, TopDevice& device) {
  const std::string& name = device.name();
  for (const char* kind : {"read", "write", "posted_write", "function_state", "reset"}) {
    const auto rate =
        comparison.Rate("bulkhead_device_accesses_total", {{"device", name}, {"kind", kind}});
    device.set_accesses_per_second(device.accesses_per_second() + rate.value_or(0));
  }
  if (const auto latency = LatencyOf(comparison, "bulkhead_device_access_seconds", name)) {
    device.set_access_mean_seconds(latency->mean_seconds);
    device.set_access_99th_percentile_seconds(latency->percentile_seconds);
  }
}

void SetRequestLatency(const Comparison& comparison, TopDevice& device) {
  if (const auto latency =
          LatencyOf(comparison, "bulkhead_device_request_seconds", device.name())) {
    device.set_request_mean_seconds(latency->mean_seconds);
    device.set_request_99th_percentile_seconds(latency->percentile_seconds);
  }
}

void SetStalls(const Comparison& comparison, TopDevice& device) {
  double all = 0;
  double fresh = 0;
  const auto add = [&](const std::string& name, const Labels& labels) {
    all += comparison.Total(name, labels).value_or(0);
    fresh += comparison.RiseOf(name, labels).value_or(0);
  };
  const Labels labels = {{"device", device.name()}};
  for (const char* what :
       {"ring_full", "access_timeouts", "accesses_dropped", "accesses_given_up"}) {
    add(absl::StrCat("bulkhead_device_", what, "_total"), labels);
  }
  add("bulkhead_device_heartbeats_total", {{"device", device.name()}, {"result", "missed"}});
  // The VM's figures, but it may be anybody's after its guest has taken it over.
  const auto whole = [](double value) {
    return static_cast<uint64_t>(std::isfinite(value) ? std::clamp(value, 0.0, 1e18) : 0.0);
  };
  device.set_stalls(whole(all));
  device.set_new_stalls(whole(fresh));
}

}  // namespace

TopSample MakeTopSample(const TopReading& before, const TopReading& now) {
  TopSample sample;
  sample.mutable_time()->set_seconds(absl::ToUnixSeconds(now.time));
  sample.mutable_time()->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(now.time - absl::FromUnixSeconds(absl::ToUnixSeconds(now.time)))));
  const absl::Duration interval = now.steady_time - before.steady_time;
  sample.mutable_interval()->set_seconds(absl::ToInt64Seconds(interval));
  sample.mutable_interval()->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(interval - absl::Seconds(absl::ToInt64Seconds(interval)))));
  *sample.mutable_status() = now.status;

  const Comparison comparison(before, now);
  constexpr uint32_t kMostVcpus = 1024;
  for (uint32_t i = 0; i < std::min(now.status.vcpus(), kMostVcpus); ++i) {
    *sample.add_vcpus() = VcpuOf(comparison, i);
  }
  std::map<std::string, uint64_t> restarts;
  for (const v1::Device& device : before.devices.devices()) {
    restarts[device.name()] = device.restarts();
  }
  for (const v1::Device& description : now.devices.devices()) {
    TopDevice& device = *sample.add_devices();
    device.set_name(description.name());
    device.set_model(description.model());
    device.set_state(description.state());
    device.set_state_reason(description.state_reason());
    device.set_restarts(description.restarts());
    const auto earlier = restarts.find(description.name());
    if (earlier != restarts.end() && earlier->second <= description.restarts()) {
      device.set_new_restarts(description.restarts() - earlier->second);
    }
    SetTraffic(comparison, device);
    SetRequestLatency(comparison, device);
    SetAccesses(comparison, device);
    SetStalls(comparison, device);
  }
  return sample;
}

}  // namespace bulkhead::vmctl
