#include "devices/i6300esb/watchdog_device.h"

#include <stdint.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/steady_time.h"
#include "devices/host/testing/fake_services.h"
#include "devices/host/testing/fake_vm_link.h"
#include "devices/i6300esb/registers.h"
#include "gtest/gtest.h"
#include "proto/contract.h"
#include "proto/vm_link.h"

namespace bulkhead::devices::i6300esb {
namespace {

using Kinds = std::vector<uint32_t>;

// Ticks are of about a millisecond.
class WatchdogDeviceTest : public testing::Test {
 protected:
  WatchdogDeviceTest() { Start(); }

  void Start() {
    link_.Connect(services_);
    device_.emplace();
    ASSERT_TRUE(device_->Start(services_).ok());
  }
  std::vector<uint8_t> Saved() const {
    std::vector<uint8_t> saved(device_->Describe().saved_state_bytes());
    saved.resize(device_->Save(absl::MakeSpan(saved)));
    return saved;
  }
  void Restart(const std::vector<uint8_t>& saved) {
    for (int fd = 0; fd < 1024; ++fd) services_.Unwatch(fd);
    Start();
    device_->SetServing(false);
    EXPECT_TRUE(device_->Restore(saved).ok());
  }
  void Register(uint64_t offset, uint8_t size_bytes, uint64_t value) {
    device_->Write(kBar, kReloadOffset, 2, kUnlock1);
    device_->Write(kBar, kReloadOffset, 2, kUnlock2);
    device_->Write(kBar, offset, size_bytes, value);
  }
  void Reload() { Register(kReloadOffset, 2, kReload); }
  // By the configuration space, where the vmm puts the body of the first capability at 0x42.
  void Config(uint64_t offset, uint8_t size_bytes, uint64_t value) {
    device_->Write(kCapabilityRegionBase, offset - 0x42, size_bytes, value);
  }
  void Enable(uint32_t ticks) {
    Register(kTimer1Offset, 4, ticks);
    Register(kTimer2Offset, 4, ticks);
    Config(kLockOffset, 1, kLockEnabled);
  }
  bool IsEnabled() {
    return device_->Read(kCapabilityRegionBase, kLockOffset - 0x42, 1) == kLockEnabled;
  }
  // Lets time pass, in which the vmm answers.
  void Run(absl::Duration time) {
    const absl::Time end = SteadyNow() + time;
    while (SteadyNow() < end) {
      link_.Answer();
      services_.RunWatches(1);
    }
  }
  Kinds ReportsWithin(absl::Duration time) {
    const absl::Time end = SteadyNow() + time;
    Kinds reports;
    while (reports.empty() && SteadyNow() < end) {
      Run(absl::Milliseconds(5));
      reports = link_.TakeReports();
    }
    return reports;
  }

  FakeServices services_;
  FakeVmLink link_;
  std::optional<WatchdogDevice> device_;
};

TEST_F(WatchdogDeviceTest, DescribesTheChipAndItsRegistersInTheConfigurationSpace) {
  const v1::DeviceInfo info = device_->Describe();
  EXPECT_EQ(info.pci().vendor_id(), 0x8086u);
  EXPECT_EQ(info.pci().device_id(), 0x25abu);
  EXPECT_TRUE(info.pci().capabilities(0).forwarded());
  EXPECT_EQ(0x42 + info.pci().capabilities(0).body().size(), 0x6au);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase, 0, 1),
            info.pci().capabilities(0).body().size() + 2);
  Config(kConfigOffset, 2, 3);
  EXPECT_EQ(device_->Read(kCapabilityRegionBase, kConfigOffset - 0x42, 2), 3u);
}

TEST_F(WatchdogDeviceTest, ExpiresOnceIfItIsNotReloaded) {
  Enable(10);
  EXPECT_EQ(ReportsWithin(absl::Seconds(5)), Kinds{VmReport::kWatchdogExpired});
  EXPECT_FALSE(IsEnabled());
  EXPECT_EQ(device_->Read(kBar, kReloadOffset, 2), kTimedOut);
  Run(absl::Milliseconds(100));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
}

TEST_F(WatchdogDeviceTest, StandsStillWithTheGuestsClock) {
  Enable(20);
  link_.StopClock();
  Run(absl::Milliseconds(200));
  Reload();  // a posted write that was on its way
  Run(absl::Milliseconds(100));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
  link_.ContinueClock();
  Run(absl::Milliseconds(10));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
  EXPECT_EQ(ReportsWithin(absl::Seconds(5)).size(), 1u);
}

TEST_F(WatchdogDeviceTest, ASuccessorAppliesWhatWaitsFirstAndKnowsOfThePauseMeanwhile) {
  Enable(50);
  const std::vector<uint8_t> saved = Saved();
  link_.StopClock();
  absl::SleepFor(absl::Milliseconds(200));
  link_.ContinueClock();
  Restart(saved);
  absl::SleepFor(absl::Milliseconds(150));
  Run(absl::Milliseconds(5));
  EXPECT_EQ(link_.TakeReports(), Kinds{}) << "the guest's reload may still wait";
  Reload();
  device_->SetServing(true);
  Run(absl::Milliseconds(20));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
  EXPECT_EQ(ReportsWithin(absl::Seconds(5)).size(), 1u);
}

TEST_F(WatchdogDeviceTest, ASuccessorExpiresAtTheDeadlineOfItsPredecessor) {
  Enable(20);
  const std::vector<uint8_t> saved = Saved();
  absl::SleepFor(absl::Milliseconds(100));
  Restart(saved);
  device_->SetServing(true);
  EXPECT_EQ(ReportsWithin(absl::Seconds(5)), Kinds{VmReport::kWatchdogExpired});
  // Dead before that was saved: the same report again.
  Restart(saved);
  device_->SetServing(true);
  Run(absl::Milliseconds(100));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
  EXPECT_FALSE(IsEnabled());
}

TEST_F(WatchdogDeviceTest, AVmmThatDidNotRunGivesTheGuestItsTimeAgain) {
  Enable(500);
  const absl::Time end = SteadyNow() + absl::Milliseconds(4'500);  // the vmm does not answer
  while (SteadyNow() < end) services_.RunWatches(10);
  Run(absl::Milliseconds(200));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
  EXPECT_TRUE(IsEnabled());
  EXPECT_EQ(ReportsWithin(absl::Seconds(5)).size(), 1u);
}

TEST_F(WatchdogDeviceTest, AResetStopsIt) {
  Enable(10);
  device_->Reset();
  EXPECT_FALSE(IsEnabled());
  Run(absl::Milliseconds(100));
  EXPECT_EQ(link_.TakeReports(), Kinds{});
}

}  // namespace
}  // namespace bulkhead::devices::i6300esb
