#include "vmm/machine/standstill.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class StandstillTest : public ::testing::Test {
 protected:
  std::vector<std::string> TakeCalls() { return std::exchange(calls_, {}); }

  absl::Status stopped_;  // what pause and hold return
  std::vector<std::string> calls_;
  Standstill standstill_{{
      .pause = [this] { return Stop("pause"); },
      .hold = [this] { return Stop("hold"); },
      .resume = [this] { calls_.push_back("resume"); },
      .stop_clock = [this] { calls_.push_back("stop clock"); },
      .continue_clock = [this] { calls_.push_back("continue clock"); },
      .report_paused = [this](const std::string& why) { calls_.push_back("paused: " + why); },
      .report_running = [this] { calls_.push_back("running"); },
  }};

 private:
  absl::Status Stop(const char* how) {
    calls_.push_back(how);
    return stopped_;
  }
};

TEST_F(StandstillTest, APauseStopsTheClockOnceNoGuestCodeRuns) {
  EXPECT_TRUE(standstill_.AddPause("", "a client").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("pause", "stop clock", "paused: a client"));
  EXPECT_TRUE(standstill_.RemovePause("").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("continue clock", "resume", "running"));
  EXPECT_FALSE(standstill_.is_requested());
}

TEST_F(StandstillTest, TheVmStaysPausedUntilTheLastRequestIsRemoved) {
  EXPECT_TRUE(standstill_.AddPause("", "a client").ok());
  TakeCalls();
  EXPECT_TRUE(standstill_.AddPause("disk0", "disk0 is unavailable").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("paused: a client, disk0 is unavailable"));
  EXPECT_TRUE(standstill_.RemovePause("").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("paused: disk0 is unavailable"));
  EXPECT_TRUE(standstill_.RemovePause("disk0").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("continue clock", "resume", "running"));
}

TEST_F(StandstillTest, HoldsAreCounted) {
  EXPECT_TRUE(standstill_.AddHold("disk0").ok());
  EXPECT_THAT(TakeCalls(),
              ElementsAre("hold", "stop clock", "paused: the guest waits for device 'disk0'"));
  EXPECT_TRUE(standstill_.AddHold("disk0").ok());
  EXPECT_TRUE(standstill_.RemoveHold("disk0").ok());
  TakeCalls();
  EXPECT_TRUE(standstill_.is_requested());
  EXPECT_TRUE(standstill_.RemoveHold("disk0").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("continue clock", "resume", "running"));
}

TEST_F(StandstillTest, APauseOfAHeldVmParksItsAccessesAndTheClockStaysStopped) {
  EXPECT_TRUE(standstill_.AddHold("disk0").ok());
  TakeCalls();
  EXPECT_TRUE(standstill_.AddPause("", "a client").ok());
  EXPECT_THAT(TakeCalls(),
              ElementsAre("pause", "paused: a client, the guest waits for device 'disk0'"));
}

TEST_F(StandstillTest, AHoldAfterAPauseResumesFirstSoThatAccessesWaitAgain) {
  EXPECT_TRUE(standstill_.AddHold("disk0").ok());
  EXPECT_TRUE(standstill_.AddPause("", "a client").ok());
  TakeCalls();
  EXPECT_TRUE(standstill_.RemovePause("").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("continue clock", "resume", "running", "hold", "stop clock",
                                       "paused: the guest waits for device 'disk0'"));
}

TEST_F(StandstillTest, ADeviceThatPausesTheVmIsNamedOnce) {
  EXPECT_TRUE(standstill_.AddHold("disk0").ok());
  EXPECT_TRUE(standstill_.AddPause("disk0", "disk0 is unavailable").ok());
  EXPECT_EQ(standstill_.reason(), "disk0 is unavailable");
}

TEST_F(StandstillTest, APauseThatFailsLeavesTheVmRunningAndIsRemoved) {
  stopped_ = absl::DeadlineExceededError("vCPU 1");
  EXPECT_EQ(standstill_.AddPause("", "a client"), stopped_);
  EXPECT_THAT(TakeCalls(), ElementsAre("pause", "continue clock", "running"));
  EXPECT_FALSE(standstill_.is_requested());
  stopped_ = absl::OkStatus();
  EXPECT_TRUE(standstill_.AddPause("", "a client").ok());
  EXPECT_THAT(TakeCalls(), ElementsAre("pause", "stop clock", "paused: a client"));
}

TEST_F(StandstillTest, NewVcpusStandStillFromTheStartIfRequested) {
  EXPECT_TRUE(standstill_.OnNewVcpus().ok());
  EXPECT_THAT(TakeCalls(), IsEmpty());
  EXPECT_TRUE(standstill_.AddPause("", "a client").ok());
  TakeCalls();
  EXPECT_TRUE(standstill_.OnNewVcpus().ok());  // the guest has rebooted
  EXPECT_THAT(TakeCalls(), ElementsAre("pause", "stop clock", "paused: a client"));
}

}  // namespace
}  // namespace bulkhead::vmm
