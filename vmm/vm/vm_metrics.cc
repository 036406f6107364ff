#include "vmm/vm/vm_metrics.h"

#include <stdint.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {
namespace {

using Labels = std::initializer_list<std::pair<const char*, absl::string_view>>;
using channel::LatencyHistogram;

constexpr v1::MetricFamily::Kind kCounter = v1::MetricFamily::COUNTER;
constexpr v1::MetricFamily::Kind kGauge = v1::MetricFamily::GAUGE;
constexpr v1::MetricFamily::Kind kHistogram = v1::MetricFamily::HISTOGRAM;

// Exports every second of the histogram's powers of two, from half a microsecond on.
constexpr size_t kFirstBucket = 9;
constexpr size_t kBucketStep = 2;

// The help text of a family for which devices give different texts.
constexpr char kDisputedHelp[] = "As the devices' processes count it";
constexpr absl::string_view kCounterSuffix = "_total";

// Puts samples into their families, which are in the order of their first sample.
class Families {
 public:
  void Add(absl::string_view name, v1::MetricFamily::Kind kind, absl::string_view help,
           Labels labels, double value) {
    NewSample(name, kind, help, labels).set_value(value);
  }

  void Add(absl::string_view name, absl::string_view help, Labels labels,
           const LatencyHistogram& latency) {
    v1::Histogram& histogram = *NewSample(name, kHistogram, help, labels).mutable_histogram();
    uint64_t counted = 0;
    for (size_t i = 0; i + 1 < LatencyHistogram::kBuckets; ++i) {
      counted += latency.buckets[i];
      if (i < kFirstBucket || (i - kFirstBucket) % kBucketStep != 0) continue;
      v1::Bucket& bucket = *histogram.add_buckets();
      bucket.set_upper_bound(static_cast<double>(LatencyHistogram::UpperBoundNanoseconds(i)) / 1e9);
      bucket.set_count(counted);
    }
    // Not latency.count: the figures were not read at the same time, and cumulative counts must not
    // fall.
    counted += latency.buckets.back();
    v1::Bucket& last = *histogram.add_buckets();
    last.set_upper_bound(std::numeric_limits<double>::infinity());
    last.set_count(counted);
    histogram.set_count(counted);
    histogram.set_sum(absl::ToDoubleSeconds(latency.sum));
  }

  v1::VmMetrics Take() { return std::move(metrics_); }

 private:
  v1::Sample& NewSample(absl::string_view name, v1::MetricFamily::Kind kind, absl::string_view help,
                        Labels labels) {
    const auto [place, is_new] = families_.try_emplace(std::string(name), metrics_.families_size());
    if (is_new) {
      v1::MetricFamily& family = *metrics_.add_families();
      family.set_name(std::string(name));
      family.set_help(std::string(help));
      family.set_kind(kind);
    }
    v1::MetricFamily& family = *metrics_.mutable_families(place->second);
    if (family.help() != help) family.set_help(kDisputedHelp);
    v1::Sample& sample = *family.add_samples();
    for (const auto& [label, value] : labels)
      (*sample.mutable_labels())[label] = std::string(value);
    return sample;
  }

  v1::VmMetrics metrics_;
  std::map<std::string, int> families_;  // name to place in `metrics_`
};

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() / 1e9;
}

template <typename State>
void AddStates(Families& families, absl::string_view name, absl::string_view help,
               absl::string_view device, State current, int first, int last,
               const std::string& (*state_name)(State)) {
  for (int i = first; i <= last; ++i) {
    const State state = static_cast<State>(i);
    const std::string text = absl::AsciiStrToLower(state_name(state));
    const double value = state == current ? 1 : 0;
    if (device.empty()) {
      families.Add(name, kGauge, help, {{"state", text}}, value);
    } else {
      families.Add(name, kGauge, help, {{"device", device}, {"state", text}}, value);
    }
  }
}

void AddVm(Families& families, const v1::VmStatus& status, uint64_t unclaimed_accesses) {
  families.Add("bulkhead_vm_info", kGauge, "Always 1; name of the VM and version of the vmm",
               {{"name", status.name()}, {"version", status.version()}}, 1);
  AddStates<v1::VmStatus::State>(families, "bulkhead_vm_state", "1 for the state the VM is in", "",
                                 status.state(), v1::VmStatus::STARTING, v1::VmStatus::ENDING,
                                 &v1::VmStatus::State_Name<v1::VmStatus::State>);
  families.Add("bulkhead_vm_uptime_seconds", kGauge, "Since the vmm started", {},
               Seconds(status.uptime()));
  families.Add("bulkhead_vm_guest_uptime_seconds", kGauge, "Since the guest last booted", {},
               Seconds(status.guest_uptime()));
  families.Add("bulkhead_vm_reboots_total", kCounter, "Reboots of the guest", {}, status.reboots());
  families.Add("bulkhead_vm_vcpus", kGauge, "Virtual CPUs", {}, status.vcpus());
  families.Add("bulkhead_vm_memory_bytes", kGauge, "Guest RAM", {},
               static_cast<double>(status.memory_bytes()));
  families.Add("bulkhead_vm_unclaimed_accesses_total", kCounter,
               "Guest accesses to unused addresses since it last booted", {},
               static_cast<double>(unclaimed_accesses));
}

void AddVcpu(Families& families, size_t index, const VcpuFigures& figures) {
  const std::string vcpu = absl::StrCat(index);
  const auto seconds = [&](absl::string_view name, absl::string_view help, absl::Duration value) {
    families.Add(name, kCounter, help, {{"vcpu", vcpu}}, absl::ToDoubleSeconds(value));
  };
  if (figures.exits.has_value()) {
    const VcpuFigures::Exits& exits = *figures.exits;
    families.Add("bulkhead_vcpu_exits_total", kCounter,
                 "Exits from guest code since the guest last booted, by KVM's count",
                 {{"vcpu", vcpu}}, static_cast<double>(exits.all));
    for (const auto& [reason, count] :
         {std::pair("mmio", exits.mmio), std::pair("port", exits.port),
          std::pair("halt", exits.halt), std::pair("interrupt", exits.interrupt),
          std::pair("signal", exits.signal)}) {
      families.Add("bulkhead_vcpu_exits_by_reason_total", kCounter,
                   "Exits from guest code for these reasons; there are others",
                   {{"vcpu", vcpu}, {"reason", reason}}, static_cast<double>(count));
    }
    seconds("bulkhead_vcpu_halted_seconds_total",
            "Time that the vCPU slept because the guest had nothing to do", exits.halted);
  }
  if (figures.processor_time.has_value()) {
    seconds("bulkhead_vcpu_processor_seconds_total",
            "Processor time of the vCPU's thread, in the guest and in the host",
            *figures.processor_time);
  }
  if (figures.guest_time.has_value()) {
    seconds("bulkhead_vcpu_guest_seconds_total",
            "The part of it in guest code, sampled by the host's timer", *figures.guest_time);
  }
}

void AddSupervision(Families& families, const v1::Device& device) {
  const absl::string_view name = device.name();
  AddStates<v1::Device::State>(
      families, "bulkhead_device_state", "1 for the state the device is in", name, device.state(),
      v1::Device::STARTING, v1::Device::STOPPED, &v1::Device::State_Name<v1::Device::State>);
  families.Add("bulkhead_device_generation", kGauge, "Processes that have served the device",
               {{"device", name}}, static_cast<double>(device.generation()));
  families.Add("bulkhead_device_sandbox_violations_total", kCounter,
               "Processes that were killed because they violated their sandbox", {{"device", name}},
               static_cast<double>(device.sandbox_violations()));
  for (const std::string& layer : device.sandbox_waived()) {
    families.Add("bulkhead_device_sandbox_waived", kGauge,
                 "1 for each layer that its process's sandbox lacks",
                 {{"device", name}, {"layer", layer}}, 1);
  }
  families.Add("bulkhead_device_restarts_total", kCounter, "Replacements of its process",
               {{"device", name}}, static_cast<double>(device.restarts()));
  const v1::Heartbeat& heartbeat = device.heartbeat();
  for (const auto& [result, count] :
       {std::pair("answered", heartbeat.answered()), std::pair("missed", heartbeat.missed())}) {
    families.Add("bulkhead_device_heartbeats_total", kCounter, "Heartbeats, by result",
                 {{"device", name}, {"result", result}}, static_cast<double>(count));
  }
  families.Add("bulkhead_device_heartbeat_round_trip_seconds", kGauge,
               "Round trip of the last answered heartbeat", {{"device", name}},
               Seconds(heartbeat.round_trip()));
  if (device.recent_restarts_size() == 0) return;
  const v1::RestartCause& last = *device.recent_restarts().rbegin();
  if (!last.has_downtime()) return;
  families.Add("bulkhead_device_last_downtime_seconds", kGauge,
               "Time without a serving process at the last restart", {{"device", name}},
               Seconds(last.downtime()));
}

void AddProgram(Families& families, const v1::Device& device) {
  if (!device.has_program()) return;
  const absl::string_view name = device.name();
  const v1::Program& program = device.program();
  families.Add("bulkhead_device_program_running", kGauge,
               "1: the program that the vmm starts for the device runs, and nobody has stopped it",
               {{"device", name}}, program.pid() != 0 && !program.stopped());
  families.Add("bulkhead_device_program_starts_total", kCounter, "Starts of that program",
               {{"device", name}}, static_cast<double>(program.starts()));
  if (!program.has_lost_frames()) return;
  const v1::LostFrames& lost = program.lost_frames();
  for (const auto& [direction, count] :
       {std::pair("from_guest", lost.from_guest()), std::pair("to_guest", lost.to_guest())}) {
    families.Add("bulkhead_device_program_lost_frames_total", kCounter,
                 "Frames that were lost between the device and that program",
                 {{"device", name}, {"direction", direction}}, static_cast<double>(count));
  }
}

// A process may report anything: counts whose sum does not fit would make cumulative ones fall.
LatencyHistogram ToHistogram(const v1::RequestLatency& reported) {
  constexpr uint64_t kMostInBucket = uint64_t{1} << 53;
  LatencyHistogram latency;
  const size_t buckets = std::min(latency.buckets.size(), size_t(reported.buckets_size()));
  for (size_t i = 0; i < buckets; ++i) {
    latency.buckets[i] = std::min(reported.buckets(static_cast<int>(i)), kMostInBucket);
  }
  latency.sum = absl::Nanoseconds(std::min<uint64_t>(reported.sum_nanoseconds(), INT64_MAX));
  return latency;
}

void AddChannel(Families& families, const DeviceFigures& figures) {
  const absl::string_view name = figures.description.name();
  const channel::ChannelMetrics& channel = figures.channel;
  const auto counter = [&](absl::string_view what, absl::string_view help, uint64_t value) {
    families.Add(absl::StrCat("bulkhead_device_", what), kCounter, help, {{"device", name}},
                 static_cast<double>(value));
  };
  for (const auto& [kind, count] :
       {std::pair("read", channel.reads), std::pair("write", channel.writes),
        std::pair("posted_write", channel.posted_writes),
        std::pair("function_state", channel.function_states), std::pair("reset", channel.resets)}) {
    families.Add("bulkhead_device_accesses_total", kCounter, "Guest accesses sent to the device",
                 {{"device", name}, {"kind", kind}}, static_cast<double>(count));
  }
  for (const auto& [how, count] :
       {std::pair("polled", channel.polled_answers), std::pair("slept", channel.slept_answers)}) {
    families.Add("bulkhead_device_answers_total", kCounter,
                 "Answers, by whether the vCPU polled or slept", {{"device", name}, {"how", how}},
                 static_cast<double>(count));
  }
  families.Add("bulkhead_device_access_seconds", "From sending an access to taking its answer",
               {{"device", name}}, channel.latency);
  counter("access_timeouts_total", "Accesses that read as all ones after the access timeout",
          figures.timed_out_accesses);
  counter("accesses_dropped_total", "Accesses that found no process and did not wait for one",
          figures.dropped_accesses);
  counter("accesses_given_up_total", "Accesses whose answer was lost with a process",
          channel.given_up);
  counter("ring_full_total", "Accesses that found the ring full", channel.ring_full_stalls);
  families.Add("bulkhead_device_ring_full_seconds_total", kCounter,
               "Time that accesses waited for a place in the ring", {{"device", name}},
               absl::ToDoubleSeconds(channel.ring_full_time));
  families.Add("bulkhead_device_ring_occupancy", kGauge, "Requests in the ring", {{"device", name}},
               static_cast<double>(channel.occupancy));
  families.Add("bulkhead_device_ring_max_occupancy", kGauge, "Most requests in the ring so far",
               {{"device", name}}, static_cast<double>(channel.max_occupancy));

  const channel::ChannelClient::DeviceReport& report = figures.device_report;
  counter("requests_processed_total", "Requests processed, as its process reports",
          report.processed);
  counter("requests_refused_total", "Requests refused, as its process reports", report.refused);
  counter("sleeps_total", "Waits for the next request that slept, as its process reports",
          report.sleeps);
  counter("polls_total", "Waits for the next request that polled, as its process reports",
          report.polls);
  counter("poll_hits_total", "Polls that found work, as its process reports", report.poll_hits);
  if (figures.model.has_request_latency()) {
    families.Add("bulkhead_device_request_seconds",
                 "From taking a request to completing it, of some requests, as its process reports",
                 {{"device", name}}, ToHistogram(figures.model.request_latency()));
  }
}

// The family of a device's own figure. Its name decides its kind, as in the formats of Prometheus,
// so two devices never disagree on the kind of one family.
std::string ModelFamily(const v1::DeviceMetric& metric) {
  absl::string_view name = metric.name();
  while (absl::ConsumeSuffix(&name, kCounterSuffix)) {
  }
  return absl::StrCat("bulkhead_device_model_", name, metric.is_gauge() ? "" : kCounterSuffix);
}

void AddModel(Families& families, const DeviceFigures& figures) {
  const absl::string_view device = figures.description.name();
  std::set<std::string> seen;
  int repeats = 0;
  for (const v1::DeviceMetric& metric : figures.model.metrics()) {
    const std::string family = ModelFamily(metric);
    if (!seen.insert(family).second) {
      ++repeats;  // a reader would refuse all metrics if a series had two samples
      continue;
    }
    families.Add(family, metric.is_gauge() ? kGauge : kCounter, metric.help(),
                 {{"device", device}, {"model", figures.description.model()}}, metric.value());
  }
  families.Add("bulkhead_device_repeated_metrics", kGauge,
               "Figures that its process repeated in its last report; the first of each counts",
               {{"device", device}}, repeats);
}

}  // namespace

v1::VmMetrics MakeMetrics(const v1::VmStatus& status, uint64_t unclaimed_accesses,
                          absl::Span<const VcpuFigures> vcpus,
                          absl::Span<const DeviceFigures> devices) {
  Families families;
  AddVm(families, status, unclaimed_accesses);
  for (size_t i = 0; i < vcpus.size(); ++i) AddVcpu(families, i, vcpus[i]);
  for (const DeviceFigures& figures : devices) {
    AddSupervision(families, figures.description);
    AddProgram(families, figures.description);
    AddChannel(families, figures);
  }
  for (const DeviceFigures& figures : devices) AddModel(families, figures);
  return families.Take();
}

}  // namespace bulkhead::vmm
