#include "tools/vmctl/top_text.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

TopSample SampleOf(int vcpus, int devices) {
  TopSample sample;
  v1::VmStatus& status = *sample.mutable_status();
  status.set_name("web");
  status.set_state(v1::VmStatus::RUNNING);
  status.mutable_uptime()->set_seconds(11520);
  status.mutable_guest_uptime()->set_seconds(65);
  status.set_reboots(1);
  status.set_vcpus(static_cast<uint32_t>(vcpus));
  status.set_memory_bytes(512 << 20);
  status.set_devices(static_cast<uint32_t>(devices));
  status.set_devices_running(static_cast<uint32_t>(devices));
  for (int i = 0; i < vcpus; ++i) {
    TopVcpu& vcpu = *sample.add_vcpus();
    vcpu.set_index(static_cast<uint32_t>(i));
    vcpu.set_exits_per_second(123456);
    vcpu.set_mmio_exits_per_second(9999);
    vcpu.set_guest_percent(100);
    vcpu.set_host_percent(2.4);
  }
  for (int i = 0; i < devices; ++i) {
    TopDevice& device = *sample.add_devices();
    device.set_name(absl::StrCat("disk", i));
    device.set_state(v1::Device::RUNNING);
    device.set_requests_per_second(12345);
    device.set_to_guest_bytes_per_second(3.5 * (1 << 20));
    device.set_from_guest_bytes_per_second(0);
    device.set_accesses_per_second(0.25);
    device.set_request_mean_seconds(86e-6);
    device.set_request_99th_percentile_seconds(1.1e-3);
    device.set_access_mean_seconds(33e-6);
    device.set_access_99th_percentile_seconds(2.1e-3);
    device.set_stalls(7);
    device.set_restarts(1);
  }
  return sample;
}

TEST(TopTextTest, OneScreenOf80Columns) {
  TopSample sample = SampleOf(1, 2);
  TopDevice& failed = *sample.mutable_devices(1);
  failed = TopDevice();
  failed.set_name("rng0");
  failed.set_state(v1::Device::RESTARTING);
  failed.set_state_reason("killed by signal 9 (Killed), next try in 200ms");
  sample.mutable_status()->set_devices_running(1);
  EXPECT_EQ(absl::StrJoin(TopLines(sample, {}), "\n"),
            "web  RUNNING  up 3h 12m, guest 1m 5s after 1 reboot\n"
            "512 MiB of memory, 1 vCPU, 1 of 2 devices running\n"
            "\n"
            "VCPU   EXITS/s    MMIO/s   PORT/s   HALT/s    IRQ/s   GUEST   HOST  HALTED\n"
            "0         123k      9999        -        -        -    100%     2%       -\n"
            "\n"
            "DEVICE      STATE       REQ/s  MEAN   P99 IN B/s OUT B/s  ACC/s STALLS RESTARTS\n"
            "disk0       RUNNING     12.3k  86us 1.1ms   3.5M       0    0.2      7        1\n"
            "rng0        RESTARTING      -     -     -      -       -      0      0        0\n"
            "\n"
            "rng0: killed by signal 9 (Killed), next try in 200ms");
}

TEST(TopTextTest, NoLineIsLongerThanTheTerminalAndNoScreenHigher) {
  TopSample sample = SampleOf(32, 40);
  sample.mutable_status()->set_name(std::string(300, 'n'));
  sample.mutable_devices(3)->set_name(std::string(300, 'd'));
  sample.mutable_devices(3)->set_state(v1::Device::FAILED);
  sample.mutable_devices(3)->set_state_reason(std::string(300, 'r'));
  for (const size_t width : {1, 2, 3, 10, 40, 80, 99, 112, 113, 200}) {
    for (const size_t height : {0, 1, 5, 10, 24, 100}) {
      const std::vector<std::string> lines =
          TopLines(sample, {.width = width, .height = height, .color = false});
      for (const std::string& line : lines) EXPECT_LE(line.size(), width) << line;
      EXPECT_LE(lines.size(), height == 0 ? 1000 : height);
    }
  }
}

TEST(TopTextTest, WhatDoesNotFitIsCounted) {
  const TopSample sample = SampleOf(32, 40);
  const std::vector<std::string> lines = TopLines(sample, {.width = 80, .height = 24});
  EXPECT_THAT(lines, Contains("... and 29 more vCPUs"));
  EXPECT_THAT(lines, Contains("... and 27 more devices"));
  const std::vector<std::string> all = TopLines(sample, {.width = 80, .height = 0});
  EXPECT_THAT(all, Not(Contains(HasSubstr("more"))));
}

TEST(TopTextTest, WhatDoesNotFitIsNamedIfItDoesNotRun) {
  TopSample sample = SampleOf(1, 40);
  sample.mutable_devices(39)->set_state(v1::Device::FAILED);
  EXPECT_THAT(TopLines(sample, {.width = 80, .height = 24}),
              Contains("... and 24 more devices, of which 1 does not run"));
  sample.mutable_devices(38)->set_state(v1::Device::STOPPED);
  EXPECT_THAT(TopLines(sample, {.width = 80, .height = 24}),
              Contains("... and 24 more devices, of which 2 do not run"));
  sample.mutable_devices(0)->set_state(v1::Device::FAILED);  // its row is there
  EXPECT_THAT(TopLines(sample, {.width = 80, .height = 24}),
              Contains("... and 24 more devices, of which 2 do not run"));
}

TEST(TopTextTest, ALongReasonGoesOnInTheNextLine) {
  TopSample sample = SampleOf(1, 1);
  sample.mutable_devices(0)->set_state(v1::Device::FAILED);
  sample.mutable_devices(0)->set_state_reason("killed by signal 9 (Killed): it ended");
  const std::string text = absl::StrJoin(TopLines(sample, {.width = 30}), "\n");
  EXPECT_THAT(text, HasSubstr("\n\ndisk0: killed by signal 9\n  (Killed): it ended"));
  // A word that is longer than a line is broken.
  sample.mutable_devices(0)->set_state_reason(std::string(40, 'r'));
  const std::vector<std::string> lines = TopLines(sample, {.width = 30});
  EXPECT_EQ(lines[lines.size() - 2], absl::StrCat("  ", std::string(28, 'r')));
  EXPECT_EQ(lines.back(), absl::StrCat("  ", std::string(12, 'r')));
}

TEST(TopTextTest, ANameThatIsCutOffShowsIt) {
  TopSample sample = SampleOf(1, 2);
  sample.mutable_devices(0)->set_name("backup-disk1");
  sample.mutable_devices(1)->set_name("backup-disk2");
  EXPECT_THAT(TopLines(sample, {.width = 79}), Contains(HasSubstr("backup-dis~ RUNNING")));
  EXPECT_THAT(TopLines(sample, {.width = 80}), Contains(HasSubstr("backup-disk2 RUNNING")));
}

TEST(TopTextTest, NoColumnIsLostWhereTheTableGetsMore) {
  TopSample sample = SampleOf(1, 1);
  sample.mutable_devices(0)->set_name(std::string(50, 'd'));
  for (size_t width = 79; width < 160; ++width) {
    const std::string text = absl::StrJoin(TopLines(sample, {.width = width}), "\n");
    EXPECT_THAT(text, HasSubstr("RESTARTS")) << width;
    EXPECT_EQ(absl::StrContains(text, "KICK/s"), width >= 113) << width;
    EXPECT_EQ(absl::StrContains(text, "LIMIT/s"), width >= 113) << width;
  }
}

TEST(TopTextTest, TheLegendSaysAsMuchAsFits) {
  EXPECT_EQ(TopLegend(5), "");
  EXPECT_EQ(TopLegend(7), "q: quit");
  EXPECT_EQ(TopLegend(80), "q: quit  IN, OUT: to and from the guest  ACC: register accesses");
  EXPECT_THAT(TopLegend(113), HasSubstr("  MEAN, P99: times of REQ, or ACC, left of them"));
  EXPECT_THAT(TopLegend(200), HasSubstr("STALLS: "));
  for (size_t width = 0; width < 200; ++width) EXPECT_LE(TopLegend(width).size(), width);
}

TEST(TopTextTest, AWideTerminalHasMoreColumns) {
  const std::string narrow = absl::StrJoin(TopLines(SampleOf(1, 1), {.width = 80}), "\n");
  const std::string wide = absl::StrJoin(TopLines(SampleOf(1, 1), {.width = 120}), "\n");
  EXPECT_THAT(narrow, Not(HasSubstr("KICK/s")));
  EXPECT_THAT(narrow, HasSubstr("ACC/s STALLS"));
  EXPECT_THAT(wide, HasSubstr("ACC/s  MEAN   P99 STALLS RESTARTS KICK/s  IRQ/s LIMIT/s"));
  EXPECT_THAT(wide, HasSubstr(" 0.2  33us 2.1ms      7        1 "));
}

TEST(TopTextTest, NewStallsAndRestartsAreYellow) {
  TopSample sample = SampleOf(1, 1);
  const auto text = [&sample] {
    return absl::StrJoin(TopLines(sample, {.width = 80, .height = 0, .color = true}), "\n");
  };
  EXPECT_THAT(text(), Not(HasSubstr("\x1b[33m")));
  sample.mutable_devices(0)->set_new_restarts(1);
  EXPECT_THAT(text(), HasSubstr("\x1b[33m1\x1b[0m"));
}

// Texts of devices and guests must not control the terminal.
TEST(TopTextTest, ControlCharactersAreShown) {
  TopSample sample = SampleOf(1, 1);
  sample.mutable_status()->set_pause_reason("a\x1b[2Jb");
  sample.mutable_devices(0)->set_name("\x1b]0;");
  sample.mutable_devices(0)->set_state(v1::Device::FAILED);
  sample.mutable_devices(0)->set_state_reason("x\ny");
  const std::string text = absl::StrJoin(TopLines(sample, {}), "\n");
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, HasSubstr("x\\x0ay"));
}

TEST(TopTextTest, RatesAreShort) {
  EXPECT_EQ(FormatRate(0), "0");
  EXPECT_EQ(FormatRate(0.04), "<0.1");
  EXPECT_EQ(FormatRate(9.94), "9.9");
  EXPECT_EQ(FormatRate(9.96), "10");
  EXPECT_EQ(FormatRate(9999), "9999");
  EXPECT_EQ(FormatRate(10000), "10.0k");
  EXPECT_EQ(FormatRate(999400), "999k");
  EXPECT_EQ(FormatRate(999600), "1.0M");
  EXPECT_EQ(FormatRate(2.5e9), "2.5G");
  EXPECT_EQ(FormatCount(7), "7");
  EXPECT_EQ(FormatCount(9999), "9999");
  EXPECT_EQ(FormatCount(123456), "123k");
  EXPECT_EQ(FormatByteRate(10240), "10.0K");
  EXPECT_EQ(FormatByteRate(1 << 30), "1.0G");
  EXPECT_EQ(FormatRate(-1), "?");
  EXPECT_EQ(FormatRate(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(FormatRate(std::numeric_limits<double>::infinity()), "?");
  for (double value = 1e-3; value < 1e22; value *= 1.37) {
    EXPECT_LE(FormatRate(value).size(), 6u) << value;
    EXPECT_LE(FormatByteRate(value).size(), 6u) << value;
  }
}

TEST(TopTextTest, LatenciesAreShort) {
  EXPECT_EQ(FormatLatency(512e-9), "512ns");
  EXPECT_EQ(FormatLatency(8.2e-6), "8.2us");
  EXPECT_EQ(FormatLatency(33e-6), "33us");
  EXPECT_EQ(FormatLatency(2.1e-3), "2.1ms");
  EXPECT_EQ(FormatLatency(30), "30s");
  EXPECT_EQ(FormatLatency(std::numeric_limits<double>::infinity()), ">999s");
  for (double value = 1e-9; value < 1e6; value *= 1.37) {
    EXPECT_LE(FormatLatency(value).size(), 5u) << value;
  }
}

}  // namespace
}  // namespace bulkhead::vmctl
