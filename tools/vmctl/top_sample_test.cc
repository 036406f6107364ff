#include "tools/vmctl/top_sample.h"

#include <stdint.h>

#include <limits>
#include <map>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using Labels = std::map<std::string, std::string>;

TopReading ReadingAt(absl::Duration after) {
  TopReading reading;
  reading.time = absl::FromUnixSeconds(1000) + after;
  reading.steady_time = reading.time;
  reading.status.set_vcpus(1);
  v1::Device& device = *reading.devices.add_devices();
  device.set_name("disk0");
  device.set_model("virtio-blk");
  device.set_state(v1::Device::RUNNING);
  return reading;
}

v1::Sample& Add(TopReading& reading, const std::string& name, const Labels& labels, double value) {
  v1::MetricFamily& family = *reading.metrics.add_families();
  family.set_name(name);
  v1::Sample& sample = *family.add_samples();
  sample.mutable_labels()->insert(labels.begin(), labels.end());
  sample.set_value(value);
  return sample;
}

void AddModel(TopReading& reading, const std::string& name, double value) {
  Add(reading, "bulkhead_device_model_" + name, {{"device", "disk0"}, {"model", "virtio-blk"}},
      value);
}

TEST(TopSampleTest, RatesAreMeansOverTheInterval) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(2));
  for (const auto& [reading, factor] : {std::pair(&before, 1.0), std::pair(&now, 3.0)}) {
    AddModel(*reading, "reads_total", 100 * factor);
    AddModel(*reading, "writes_total", 10 * factor);
    AddModel(*reading, "read_bytes_total", 4096 * factor);
    AddModel(*reading, "written_bytes_total", 512 * factor);
    AddModel(*reading, "doorbells_total", 7 * factor);
    Add(*reading, "bulkhead_device_accesses_total", {{"device", "disk0"}, {"kind", "read"}},
        5 * factor);
    Add(*reading, "bulkhead_device_accesses_total", {{"device", "disk0"}, {"kind", "posted_write"}},
        6 * factor);
  }
  const TopSample sample = MakeTopSample(before, now);
  EXPECT_EQ(sample.time().seconds(), 1002);
  EXPECT_EQ(sample.interval().seconds(), 2);
  ASSERT_EQ(sample.devices_size(), 1);
  const TopDevice& disk = sample.devices(0);
  EXPECT_EQ(disk.name(), "disk0");
  EXPECT_EQ(disk.requests_per_second(), 110);
  EXPECT_EQ(disk.to_guest_bytes_per_second(), 4096);
  EXPECT_EQ(disk.from_guest_bytes_per_second(), 512);
  EXPECT_EQ(disk.doorbells_per_second(), 7);
  EXPECT_EQ(disk.accesses_per_second(), 11);
  EXPECT_FALSE(disk.has_interrupts_per_second());
  EXPECT_FALSE(disk.has_access_mean_seconds());
}

TEST(TopSampleTest, ACounterThatHasFallenBeganAnew) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(1));
  AddModel(before, "reads_total", 1000);
  AddModel(now, "reads_total", 30);
  EXPECT_EQ(MakeTopSample(before, now).devices(0).requests_per_second(), 30);
}

TEST(TopSampleTest, AFigureThatIsNewCountsFromZeroAndOneThatIsGoneIsNotThere) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(1));
  AddModel(now, "reads_total", 30);
  AddModel(before, "read_bytes_total", 30);
  const TopSample sample = MakeTopSample(before, now);
  EXPECT_EQ(sample.devices(0).requests_per_second(), 30);
  EXPECT_FALSE(sample.devices(0).has_to_guest_bytes_per_second());
}

TEST(TopSampleTest, TimesOfAVcpuAreSharesOfTheInterval) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(4));
  Add(before, "bulkhead_vcpu_processor_seconds_total", {{"vcpu", "0"}}, 10);
  Add(now, "bulkhead_vcpu_processor_seconds_total", {{"vcpu", "0"}}, 12);
  Add(before, "bulkhead_vcpu_guest_seconds_total", {{"vcpu", "0"}}, 8);
  Add(now, "bulkhead_vcpu_guest_seconds_total", {{"vcpu", "0"}}, 9);
  Add(now, "bulkhead_vcpu_halted_seconds_total", {{"vcpu", "0"}}, 1);
  Add(now, "bulkhead_vcpu_exits_total", {{"vcpu", "0"}}, 400);
  const TopSample sample = MakeTopSample(before, now);
  ASSERT_EQ(sample.vcpus_size(), 1);
  EXPECT_EQ(sample.vcpus(0).guest_percent(), 25);
  EXPECT_EQ(sample.vcpus(0).host_percent(), 25);
  EXPECT_EQ(sample.vcpus(0).halted_percent(), 25);
  EXPECT_EQ(sample.vcpus(0).exits_per_second(), 100);
  EXPECT_FALSE(sample.vcpus(0).has_mmio_exits_per_second());
}

void AddLatency(TopReading& reading, uint64_t fast, uint64_t slow, double sum,
                const std::string& of = "access") {
  v1::Histogram& histogram =
      *Add(reading, "bulkhead_device_" + of + "_seconds", {{"device", "disk0"}}, 0)
           .mutable_histogram();
  const std::pair<double, uint64_t> buckets[] = {
      {1e-5, fast}, {1e-2, fast + slow}, {std::numeric_limits<double>::infinity(), fast + slow}};
  for (const auto& [bound, count] : buckets) {
    v1::Bucket& bucket = *histogram.add_buckets();
    bucket.set_upper_bound(bound);
    bucket.set_count(count);
  }
  histogram.set_sum(sum);
  histogram.set_count(fast + slow);
}

TEST(TopSampleTest, LatencyIsThatOfTheAccessesInTheInterval) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(1));
  AddLatency(before, 10, 90, 5);  // slow, but before
  AddLatency(now, 110, 90, 6);
  const TopDevice fast = MakeTopSample(before, now).devices(0);
  EXPECT_EQ(fast.access_mean_seconds(), 0.01);
  EXPECT_EQ(fast.access_99th_percentile_seconds(), 1e-5);

  TopReading later = ReadingAt(absl::Seconds(2));
  AddLatency(later, 200, 92, 6.5);  // 2 of 92
  EXPECT_EQ(MakeTopSample(now, later).devices(0).access_99th_percentile_seconds(), 1e-2);
  EXPECT_FALSE(MakeTopSample(later, later).devices(0).has_access_mean_seconds());
}

TEST(TopSampleTest, LatencyOfRequestsIsNotThatOfAccesses) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(1));
  AddLatency(before, 1000, 90, 50, "request");
  AddLatency(now, 100, 0, 0.5, "request");  // by a new process
  const TopDevice disk = MakeTopSample(before, now).devices(0);
  EXPECT_EQ(disk.request_mean_seconds(), 0.005);
  EXPECT_EQ(disk.request_99th_percentile_seconds(), 1e-5);
  EXPECT_FALSE(disk.has_access_mean_seconds());
  EXPECT_FALSE(MakeTopSample(now, now).devices(0).has_request_mean_seconds());
}

TEST(TopSampleTest, StallsAndRestartsAreTotalsWithWhatIsNew) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::Seconds(1));
  before.devices.mutable_devices(0)->set_restarts(2);
  now.devices.mutable_devices(0)->set_restarts(3);
  const Labels disk = {{"device", "disk0"}};
  Add(before, "bulkhead_device_ring_full_total", disk, 10);
  Add(now, "bulkhead_device_ring_full_total", disk, 14);
  Add(now, "bulkhead_device_access_timeouts_total", disk, 1);
  const Labels missed = {{"device", "disk0"}, {"result", "missed"}};
  Add(before, "bulkhead_device_heartbeats_total", missed, 2);
  Add(now, "bulkhead_device_heartbeats_total", missed, 2);
  const TopDevice device = MakeTopSample(before, now).devices(0);
  EXPECT_EQ(device.stalls(), 17u);
  EXPECT_EQ(device.new_stalls(), 5u);
  EXPECT_EQ(device.restarts(), 3u);
  EXPECT_EQ(device.new_restarts(), 1u);
}

TEST(TopSampleTest, FiguresThatCannotBeDoNoHarm) {
  TopReading before = ReadingAt(absl::ZeroDuration());
  TopReading now = ReadingAt(absl::ZeroDuration());  // at the same time
  now.status.set_vcpus(UINT32_MAX);
  for (const double value : {std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity(), -1.0, 1e300}) {
    AddModel(now, "reads_total", value);
    Add(now, "bulkhead_device_ring_full_total", {{"device", "disk0"}}, value);
    Add(now, "bulkhead_vcpu_guest_seconds_total", {{"vcpu", "0"}}, value);
    const TopSample sample = MakeTopSample(before, now);
    EXPECT_LE(sample.vcpus_size(), 1024);
    EXPECT_LE(sample.vcpus(0).guest_percent(), 100);
    EXPECT_GE(sample.vcpus(0).guest_percent(), 0);
    now.metrics.Clear();
  }
  AddLatency(before, 10, 5, 1);
  AddLatency(now, 10, 5, -3);
  now.metrics.mutable_families(0)->mutable_samples(0)->mutable_histogram()->set_count(UINT64_MAX);
  (void)MakeTopSample(before, now);
}

}  // namespace
}  // namespace bulkhead::vmctl
