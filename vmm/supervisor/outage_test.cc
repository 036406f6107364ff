#include "vmm/supervisor/outage.h"

#include <stdint.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/vm_control.pb.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/device_process.h"
#include "vmm/supervisor/absence.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/supervision_table.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLongAgo = absl::Hours(1);

DeviceSpec Spec() {
  DeviceSpec spec;
  spec.name = "disk0";
  spec.restart = {.policy = RestartSpec::Policy::kOnFailure,
                  .min_backoff = absl::Seconds(100),
                  .max_backoff = absl::Seconds(100),
                  .max_crashes = 3};
  return spec;
}

DeviceProcessEnd Killed() {
  return {.exit = {.signalled = true, .code = 9},
          .reason = "killed by signal 9 (Killed)",
          .time = SteadyNow(),
          .last_lines = ""};
}

// A device in use, whose absence holds the VM after half an hour.
struct Device {
  Device() {
    outage.SetAbsence(absence.get());
    outage.End();
    outage.ReportState(v1::Device::RUNNING);
  }
  SupervisionEvent Lose(const DeviceProcessEnd& end) {
    outage.Begin(absl::InfiniteFuture());
    outage.OnReaped(absl::InfiniteFuture(), end);
    return outage.AskPolicy();
  }
  absl::Duration UntilNextTry() const { return outage.next_try() - SteadyNow(); }

  absl::Notification held;
  EventLog events;
  DeviceReport report{Spec(), events};
  const std::unique_ptr<Absence> absence = *Absence::Create({.before_hold = absl::Minutes(30),
                                                             .timeout = absl::Hours(24),
                                                             .is_used = [] { return true; },
                                                             .hold =
                                                                 [this](bool hold) {
                                                                   if (hold) held.Notify();
                                                                 }});
  Outage outage{Spec(), report, [] { return 0.5; }};
};

TEST(OutageTest, TheFirstRestartFollowsAtOnceAndFurtherOnesWait) {
  Device device;
  EXPECT_EQ(device.outage.next_try(), absl::InfiniteFuture());
  EXPECT_EQ(device.Lose(Killed()), SupervisionEvent::kPolicyRestarts);
  device.outage.RetryAfterBackoff();
  EXPECT_LE(device.UntilNextTry(), absl::ZeroDuration());
  device.outage.End();
  EXPECT_EQ(device.outage.next_try(), absl::InfiniteFuture());

  EXPECT_EQ(device.Lose(Killed()), SupervisionEvent::kPolicyRestarts);
  device.outage.RetryAfterBackoff();
  EXPECT_GT(device.UntilNextTry(), absl::Seconds(50));
  device.outage.ReportState(v1::Device::RESTARTING);
  EXPECT_EQ(device.outage.state_reason(), "killed by signal 9 (Killed), next try in 1m40s");
  EXPECT_EQ(device.report.device().state(), v1::Device::RESTARTING);
  EXPECT_EQ(device.report.device().state_reason(), device.outage.state_reason());
}

TEST(OutageTest, TooManyCrashesAreReportedAsAFailureUntilTheyAreForgotten) {
  Device device;
  device.Lose(Killed());
  device.Lose(Killed());
  EXPECT_EQ(device.Lose(Killed()), SupervisionEvent::kPolicyFails);
  device.outage.ReportFailed();
  EXPECT_EQ(device.report.device().state(), v1::Device::FAILED);
  EXPECT_EQ(device.report.device().state_reason(), "killed by signal 9 (Killed): 3 crashes in 1m");
  device.outage.ForgetFailures();
  EXPECT_EQ(device.Lose(Killed()), SupervisionEvent::kPolicyRestarts);
}

TEST(OutageTest, ACleanEndStopsTheDeviceAndAFailedStartAfterItDoesNot) {
  Device device;
  DeviceProcessEnd end = Killed();
  end.exit = {.signalled = false, .code = 0};
  EXPECT_EQ(device.Lose(end), SupervisionEvent::kPolicyStops);
  device.outage.OnFailedStart(absl::InternalError("it has no such flag"));
  EXPECT_EQ(device.outage.cause(), "it has no such flag");
  EXPECT_EQ(device.outage.AskPolicy(), SupervisionEvent::kPolicyRestarts);
}

TEST(OutageTest, AProcessThatDoesNotDieIsACrashToo) {
  Device device;
  device.outage.Begin(absl::InfiniteFuture());
  device.outage.OnReaped(absl::InfiniteFuture(), std::nullopt);
  EXPECT_THAT(device.outage.cause(), HasSubstr("does not die"));
  EXPECT_EQ(device.outage.AskPolicy(), SupervisionEvent::kPolicyRestarts);
}

TEST(OutageTest, AShortageIsTriedAgainHoweverOftenAndIsLoggedOnce) {
  Device device;
  const uint64_t events = device.events.last_sequence();
  for (int i = 0; i < 20; ++i) {
    device.outage.RetryAfterShortage(absl::ResourceExhaustedError("no descriptors"));
    EXPECT_GT(device.UntilNextTry(), absl::ZeroDuration());
    EXPECT_LE(device.UntilNextTry(), absl::Seconds(2));
  }
  EXPECT_EQ(device.events.last_sequence(), events + 1);
  device.outage.ReportState(v1::Device::RESTARTING);
  EXPECT_EQ(device.outage.state_reason(),
            "the host lacks what a process needs: no descriptors; next try in 2s");
  device.outage.End();
  device.outage.ReportState(v1::Device::RUNNING);
  EXPECT_EQ(device.outage.state_reason(), "");
}

TEST(OutageTest, TheOutageAndTheHoldBeginWhenTheProcessFellSilent) {
  Device device;
  const absl::Time silent_since = SteadyNow() - kLongAgo;
  device.outage.Begin(silent_since);
  device.outage.OnReaped(silent_since, Killed());
  device.outage.ReportLoss();
  EXPECT_FALSE(device.held.HasBeenNotified());
  device.outage.ReportState(v1::Device::RESTARTING);
  device.held.WaitForNotification();
  EXPECT_EQ(device.report.device().recent_restarts(0).cause(), "killed by signal 9 (Killed)");
  device.outage.End();
  EXPECT_GE(device.report.device().recent_restarts(0).downtime().seconds(),
            absl::ToInt64Seconds(kLongAgo));
}

}  // namespace
}  // namespace bulkhead::vmm
