#include "vmm/vm/vm_metrics.h"

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::StartsWith;

const v1::MetricFamily* Find(const v1::VmMetrics& metrics, const std::string& name) {
  for (const v1::MetricFamily& family : metrics.families()) {
    if (family.name() == name) return &family;
  }
  return nullptr;
}

// The value of the one sample with (at least) these labels; NaN if there is none.
double Value(const v1::VmMetrics& metrics, const std::string& name,
             const std::map<std::string, std::string>& labels = {}) {
  const v1::MetricFamily* const family = Find(metrics, name);
  if (family == nullptr) return NAN;
  for (const v1::Sample& sample : family->samples()) {
    bool fits = true;
    for (const auto& [label, value] : labels) {
      const auto found = sample.labels().find(label);
      fits = fits && found != sample.labels().end() && found->second == value;
    }
    if (fits) return sample.value();
  }
  return NAN;
}

DeviceFigures Figures(const std::string& name) {
  DeviceFigures figures;
  figures.description.set_name(name);
  figures.description.set_model("virtio-blk");
  figures.description.set_state(v1::Device::RUNNING);
  return figures;
}

TEST(VmMetricsTest, AProgramThatServesADeviceIsCounted) {
  DeviceFigures net = Figures("net0");
  v1::Program& program = *net.description.mutable_program();
  program.set_pid(7);
  program.set_starts(3);
  program.mutable_lost_frames()->set_from_guest(4);
  program.mutable_lost_frames()->set_to_guest(5);
  DeviceFigures disk = Figures("disk0");
  disk.description.mutable_program()->set_starts(2);
  DeviceFigures stopped = Figures("net1");
  stopped.description.mutable_program()->set_pid(8);
  stopped.description.mutable_program()->set_stopped(true);
  const v1::VmMetrics metrics =
      MakeMetrics(v1::VmStatus(), 0, {}, std::vector{net, disk, stopped, Figures("disk1")});
  constexpr char kRunning[] = "bulkhead_device_program_running";
  EXPECT_EQ(Value(metrics, kRunning, {{"device", "net0"}}), 1);
  EXPECT_EQ(Value(metrics, kRunning, {{"device", "disk0"}}), 0);
  EXPECT_EQ(Value(metrics, kRunning, {{"device", "net1"}}), 0);
  EXPECT_TRUE(std::isnan(Value(metrics, kRunning, {{"device", "disk1"}})));
  EXPECT_EQ(Value(metrics, "bulkhead_device_program_starts_total", {{"device", "net0"}}), 3);
  EXPECT_EQ(Value(metrics, "bulkhead_device_program_starts_total", {{"device", "disk0"}}), 2);
  constexpr char kLost[] = "bulkhead_device_program_lost_frames_total";
  EXPECT_EQ(Value(metrics, kLost, {{"device", "net0"}, {"direction", "from_guest"}}), 4);
  EXPECT_EQ(Value(metrics, kLost, {{"device", "net0"}, {"direction", "to_guest"}}), 5);
  EXPECT_TRUE(std::isnan(Value(metrics, kLost, {{"device", "disk0"}})));
}

TEST(VmMetricsTest, TheVmsFiguresAreItsStatus) {
  v1::VmStatus status;
  status.set_name("web");
  status.set_state(v1::VmStatus::PAUSED);
  status.mutable_uptime()->set_seconds(12);
  status.mutable_uptime()->set_nanos(500'000'000);
  status.set_reboots(3);
  const v1::VmMetrics metrics = MakeMetrics(status, 7, {}, {});
  EXPECT_EQ(Value(metrics, "bulkhead_vm_info", {{"name", "web"}}), 1);
  EXPECT_EQ(Value(metrics, "bulkhead_vm_state", {{"state", "paused"}}), 1);
  EXPECT_EQ(Value(metrics, "bulkhead_vm_state", {{"state", "running"}}), 0);
  EXPECT_EQ(Value(metrics, "bulkhead_vm_uptime_seconds"), 12.5);
  EXPECT_EQ(Value(metrics, "bulkhead_vm_reboots_total"), 3);
  EXPECT_EQ(Value(metrics, "bulkhead_vm_unclaimed_accesses_total"), 7);
}

TEST(VmMetricsTest, VcpusDifferByLabelAndHaveWhatTheHostCounts) {
  std::vector<VcpuFigures> vcpus(2);
  vcpus[0].exits = {.all = 100, .mmio = 40, .port = 5, .halt = 30, .interrupt = 20, .signal = 1};
  vcpus[0].exits->halted = absl::Milliseconds(2500);
  vcpus[1].processor_time = absl::Seconds(3);
  vcpus[1].guest_time = absl::Seconds(2);
  const v1::VmMetrics metrics = MakeMetrics({}, 0, vcpus, {});
  const std::map<std::string, std::string> first = {{"vcpu", "0"}};
  const std::map<std::string, std::string> second = {{"vcpu", "1"}};
  EXPECT_EQ(Value(metrics, "bulkhead_vcpu_exits_total", first), 100);
  EXPECT_EQ(Value(metrics, "bulkhead_vcpu_exits_by_reason_total", {{"reason", "mmio"}}), 40);
  EXPECT_EQ(Value(metrics, "bulkhead_vcpu_exits_by_reason_total", {{"reason", "halt"}}), 30);
  EXPECT_EQ(Value(metrics, "bulkhead_vcpu_halted_seconds_total", first), 2.5);
  EXPECT_EQ(Value(metrics, "bulkhead_vcpu_processor_seconds_total", second), 3);
  EXPECT_EQ(Value(metrics, "bulkhead_vcpu_guest_seconds_total", second), 2);
  EXPECT_TRUE(std::isnan(Value(metrics, "bulkhead_vcpu_exits_total", second)));
  EXPECT_TRUE(std::isnan(Value(metrics, "bulkhead_vcpu_guest_seconds_total", first)));
}

TEST(VmMetricsTest, DevicesShareFamiliesAndDifferByLabel) {
  std::vector<DeviceFigures> devices = {Figures("disk0"), Figures("disk1")};
  devices[0].channel.reads = 10;
  devices[0].channel.posted_writes = 20;
  devices[1].channel.reads = 30;
  devices[1].description.set_state(v1::Device::RESTARTING);
  devices[1].description.set_restarts(2);
  devices[1].description.mutable_heartbeat()->set_missed(4);
  const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, devices);
  const std::string accesses = "bulkhead_device_accesses_total";
  EXPECT_EQ(Value(metrics, accesses, {{"device", "disk0"}, {"kind", "read"}}), 10);
  EXPECT_EQ(Value(metrics, accesses, {{"device", "disk0"}, {"kind", "posted_write"}}), 20);
  EXPECT_EQ(Value(metrics, accesses, {{"device", "disk1"}, {"kind", "read"}}), 30);
  EXPECT_EQ(Value(metrics, "bulkhead_device_state", {{"device", "disk1"}, {"state", "restarting"}}),
            1);
  EXPECT_EQ(Value(metrics, "bulkhead_device_restarts_total", {{"device", "disk1"}}), 2);
  EXPECT_EQ(Value(metrics, "bulkhead_device_heartbeats_total",
                  {{"device", "disk1"}, {"result", "missed"}}),
            4);

  std::set<std::string> names;
  for (const v1::MetricFamily& family : metrics.families()) {
    EXPECT_TRUE(names.insert(family.name()).second) << family.name() << " twice";
    EXPECT_NE(family.help(), "") << family.name();
    EXPECT_NE(family.kind(), v1::MetricFamily::KIND_UNSPECIFIED);
    EXPECT_THAT(family.name(), StartsWith("bulkhead_"));
    EXPECT_EQ(family.kind() == v1::MetricFamily::COUNTER,
              family.name().find("_total") != std::string::npos)
        << family.name();
  }
}

TEST(VmMetricsTest, BucketsRiseAndTheLastHoldsAll) {
  DeviceFigures figures = Figures("disk0");
  figures.channel.latency.buckets[2] = 1;   // 3 ns
  figures.channel.latency.buckets[13] = 5;  // up to 8 us
  figures.channel.latency.buckets[channel::LatencyHistogram::kBuckets - 1] = 2;
  figures.channel.latency.count = 9;  // a moment later
  figures.channel.latency.sum = absl::Milliseconds(1500);
  const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, {figures});
  const v1::MetricFamily* const family = Find(metrics, "bulkhead_device_access_seconds");
  ASSERT_NE(family, nullptr);
  ASSERT_EQ(family->samples_size(), 1);
  const v1::Histogram& histogram = family->samples(0).histogram();
  double bound = 0;
  uint64_t count = 0;
  for (const v1::Bucket& bucket : histogram.buckets()) {
    EXPECT_GT(bucket.upper_bound(), bound);
    EXPECT_GE(bucket.count(), count);
    if (bucket.upper_bound() < 8e-6) {
      EXPECT_EQ(bucket.count(), 1u);
    }
    bound = bucket.upper_bound();
    count = bucket.count();
  }
  EXPECT_TRUE(std::isinf(bound));
  EXPECT_EQ(count, 8u);
  EXPECT_EQ(histogram.count(), 8u);
  EXPECT_EQ(histogram.sum(), 1.5);
}

const v1::Histogram& RequestLatency(const v1::VmMetrics& metrics) {
  static const v1::Histogram kNone;
  const v1::MetricFamily* const family = Find(metrics, "bulkhead_device_request_seconds");
  return family == nullptr ? kNone : family->samples(0).histogram();
}

TEST(VmMetricsTest, RequestLatencyIsThatOfDevicesThatHaveIt) {
  DeviceFigures disk = Figures("disk0");
  v1::RequestLatency& latency = *disk.model.mutable_request_latency();
  latency.mutable_buckets()->Resize(channel::LatencyHistogram::kBuckets, 0);
  latency.set_buckets(17, 90);  // up to 131 us
  latency.set_buckets(20, 10);
  latency.set_sum_nanoseconds(20'000'000);
  const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, {disk, Figures("net0")});
  const v1::MetricFamily* const family = Find(metrics, "bulkhead_device_request_seconds");
  ASSERT_NE(family, nullptr);
  ASSERT_EQ(family->samples_size(), 1);
  EXPECT_EQ(family->samples(0).labels().at("device"), "disk0");
  const v1::Histogram& histogram = family->samples(0).histogram();
  EXPECT_EQ(histogram.sum(), 0.02);
  EXPECT_EQ(histogram.count(), 100u);
  for (const v1::Bucket& bucket : histogram.buckets()) {
    EXPECT_EQ(bucket.count(), bucket.upper_bound() < 1.3e-4   ? 0u
                              : bucket.upper_bound() < 1.0e-3 ? 90u
                                                              : 100u)
        << bucket.upper_bound();
  }
}

TEST(VmMetricsTest, WhateverAProcessReportsItsHistogramIsOne) {
  for (const int buckets : {0, 1, 33, 1000}) {
    DeviceFigures liar = Figures("liar");
    v1::RequestLatency& latency = *liar.model.mutable_request_latency();
    latency.mutable_buckets()->Resize(buckets, UINT64_MAX);
    latency.set_sum_nanoseconds(UINT64_MAX);
    const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, {liar});
    const v1::Histogram& histogram = RequestLatency(metrics);
    ASSERT_GT(histogram.buckets_size(), 0);
    uint64_t count = 0;
    for (const v1::Bucket& bucket : histogram.buckets()) {
      EXPECT_GE(bucket.count(), count);
      count = bucket.count();
    }
    EXPECT_EQ(histogram.count(), count);
    EXPECT_EQ(count > 0, buckets > 0);
    EXPECT_GT(histogram.sum(), 0);
    EXPECT_LT(histogram.sum(), 1e10);
  }
}

v1::DeviceMetric& AddMetric(DeviceFigures& figures, const std::string& name, double value,
                            const std::string& help, bool is_gauge = false) {
  v1::DeviceMetric& metric = *figures.model.add_metrics();
  metric.set_name(name);
  metric.set_value(value);
  metric.set_help(help);
  metric.set_is_gauge(is_gauge);
  return metric;
}

TEST(VmMetricsTest, ADevicesOwnFiguresHaveTheirOwnPrefix) {
  DeviceFigures disk = Figures("disk0");
  AddMetric(disk, "read_bytes_total", 512, "bytes read");
  AddMetric(disk, "restarts_total", 99, "a lie");
  const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, {disk});
  EXPECT_EQ(Value(metrics, "bulkhead_device_model_read_bytes_total",
                  {{"device", "disk0"}, {"model", "virtio-blk"}}),
            512);
  EXPECT_EQ(Value(metrics, "bulkhead_device_restarts_total", {{"device", "disk0"}}), 0);
}

TEST(VmMetricsTest, AHostileDeviceCannotChangeAnotherDevicesFigures) {
  DeviceFigures disk = Figures("disk0");
  AddMetric(disk, "flushes_total", 7, "flushes served");
  AddMetric(disk, "depth", 3, "requests in flight", /*is_gauge=*/true);
  DeviceFigures liar = Figures("liar");
  AddMetric(liar, "flushes_total", 1, "forged", /*is_gauge=*/true);
  AddMetric(liar, "flushes_total", 2, "forged");
  AddMetric(liar, "flushes", 3, "forged");
  AddMetric(liar, "depth", 4, "forged");
  for (const bool liar_first : {true, false}) {
    const std::vector<DeviceFigures> devices = liar_first ? std::vector<DeviceFigures>{liar, disk}
                                                          : std::vector<DeviceFigures>{disk, liar};
    const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, devices);
    const std::string flushes = "bulkhead_device_model_flushes_total";
    const std::string depth = "bulkhead_device_model_depth";
    EXPECT_EQ(Value(metrics, flushes, {{"device", "disk0"}}), 7);
    EXPECT_EQ(Value(metrics, depth, {{"device", "disk0"}}), 3);
    EXPECT_EQ(Find(metrics, flushes)->kind(), v1::MetricFamily::COUNTER);
    EXPECT_EQ(Find(metrics, depth)->kind(), v1::MetricFamily::GAUGE);
    EXPECT_EQ(Find(metrics, flushes)->help().find("forged"), std::string::npos);
    EXPECT_EQ(Find(metrics, depth)->help(), "requests in flight");
  }
}

TEST(VmMetricsTest, TheFirstOfRepeatedFiguresCounts) {
  DeviceFigures disk = Figures("disk0");
  AddMetric(disk, "reads_total", 11, "reads");
  AddMetric(disk, "reads_total", 264, "other reads");
  AddMetric(disk, "reads", 5, "the same, once the kind is in the name");
  const v1::VmMetrics metrics = MakeMetrics({}, 0, {}, {disk});
  const v1::MetricFamily* const reads = Find(metrics, "bulkhead_device_model_reads_total");
  ASSERT_NE(reads, nullptr);
  ASSERT_EQ(reads->samples_size(), 1);
  EXPECT_EQ(reads->samples(0).value(), 11);
  EXPECT_EQ(Value(metrics, "bulkhead_device_repeated_metrics", {{"device", "disk0"}}), 2);
}

TEST(VmMetricsTest, TheLastDowntimeIsReportedOnceItIsOver) {
  DeviceFigures figures = Figures("disk0");
  const std::string name = "bulkhead_device_last_downtime_seconds";
  EXPECT_TRUE(std::isnan(Value(MakeMetrics({}, 0, {}, {figures}), name)));
  figures.description.add_recent_restarts();
  EXPECT_TRUE(std::isnan(Value(MakeMetrics({}, 0, {}, {figures}), name)));
  figures.description.mutable_recent_restarts(0)->mutable_downtime()->set_nanos(20'000'000);
  EXPECT_EQ(Value(MakeMetrics({}, 0, {}, {figures}), name), 0.02);
}

}  // namespace
}  // namespace bulkhead::vmm
