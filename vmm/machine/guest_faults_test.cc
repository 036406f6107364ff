#include "vmm/machine/guest_faults.h"

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(GuestFaultsTest, ACrashKernelThatTakesOverIsLeftAlone) {
  const GuestFaults faults(FaultAction::kReboot, FaultAction::kPause);
  EXPECT_EQ(faults.ActionOn(VmReport::kWatchdogExpired), FaultAction::kPause);
  EXPECT_EQ(faults.ActionOn(VmReport::kPanicked), FaultAction::kReboot);
  EXPECT_EQ(faults.ActionOn(VmReport::kCrashLoaded), FaultAction::kReport);
}

TEST(GuestFaultsTest, AnEventSaysWhatHappenedAndWhatFollows) {
  const v1::Event event =
      GuestFaults::EventOf({"pvpanic", VmReport::kPanicked}, FaultAction::kPause);
  EXPECT_EQ(event.guest_report().device(), "pvpanic");
  EXPECT_EQ(event.guest_report().kind(), v1::GuestReport::PANICKED);
  EXPECT_EQ(event.guest_report().action(), "the VM is paused");
  EXPECT_EQ(GuestFaults::EventOf({"pvpanic", VmReport::kCrashLoaded}, FaultAction::kReport)
                .guest_report()
                .action(),
            "");
}

}  // namespace
}  // namespace bulkhead::vmm
