#include "devices/host/interrupt_lines.h"

#include <fcntl.h>

#include <optional>
#include <vector>

#include "base/event_fd.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::devices {
namespace {

constexpr uint32_t kVectors = 3;

EventFd Duplicate(const EventFd& event) {
  return EventFd(UniqueFd(fcntl(event.fd(), F_DUPFD_CLOEXEC, 0)));
}
UniqueFd DuplicateFd(const EventFd& event) {
  return UniqueFd(fcntl(event.fd(), F_DUPFD_CLOEXEC, 0));
}

class InterruptLinesTest : public testing::Test {
 protected:
  InterruptLinesTest() {
    for (uint32_t i = 0; i < kVectors; ++i) vectors_.push_back(*EventFd::Create());
  }

  InterruptLines Lines(bool level_triggered) {
    InterruptLines::Events events;
    for (const EventFd& vector : vectors_) events.msix_vectors.push_back(Duplicate(vector));
    events.intx = DuplicateFd(line_);
    if (level_triggered) events.intx_resample = DuplicateFd(resample_);
    return InterruptLines(std::move(events));
  }

  std::vector<EventFd> vectors_;
  EventFd line_ = *EventFd::Create();
  EventFd resample_ = *EventFd::Create();
};

TEST_F(InterruptLinesTest, AnEnabledVectorIsSignalled) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  lines.SignalMsix(1);
  EXPECT_FALSE(vectors_[0].IsPending());
  EXPECT_TRUE(vectors_[1].IsPending());
}

TEST_F(InterruptLinesTest, AVectorThatDoesNotExistIsIgnored) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  lines.SignalMsix(kVectors);
  lines.SignalMsix(~0u);
  for (const EventFd& vector : vectors_) EXPECT_FALSE(vector.IsPending());
}

TEST_F(InterruptLinesTest, AMessageWhileMsixIsDisabledIsLost) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.bus_master = true, .msix_enabled = false});
  lines.SignalMsix(0);
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_FALSE(vectors_[0].IsPending());
}

TEST_F(InterruptLinesTest, AMessageWaitsUntilTheFunctionIsBusMaster) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.bus_master = false, .msix_enabled = true});
  lines.SignalMsix(2);
  EXPECT_FALSE(vectors_[2].IsPending());
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(vectors_[2].Drain());
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_FALSE(vectors_[2].IsPending());  // once
}

TEST_F(InterruptLinesTest, AMessageThatWaitsIsForgottenWhenMsixIsDisabled) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.bus_master = false, .msix_enabled = true});
  lines.SignalMsix(2);
  lines.OnFunctionState({.bus_master = false, .msix_enabled = false});
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_FALSE(vectors_[2].IsPending());
}

TEST_F(InterruptLinesTest, ARisingLevelAssertsTheLineOnce) {
  InterruptLines lines = Lines(true);
  lines.SetIntx(true);
  EXPECT_TRUE(line_.Drain());
  lines.SetIntx(true);
  EXPECT_FALSE(line_.IsPending());
}

TEST_F(InterruptLinesTest, TheLineIsAssertedAgainAfterTheGuestsAcknowledgementWhileTheLevelIsTrue) {
  InterruptLines lines = Lines(true);
  lines.SetIntx(true);
  ASSERT_TRUE(line_.Drain());
  resample_.Signal();
  lines.OnResample();
  EXPECT_TRUE(line_.Drain());
  EXPECT_FALSE(resample_.IsPending());
  lines.SetIntx(false);
  resample_.Signal();
  lines.OnResample();
  EXPECT_FALSE(line_.IsPending());
}

TEST_F(InterruptLinesTest, TheLineIsSilentWhileMsixIsEnabledAndComesBackAfterwards) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  lines.SetIntx(true);
  EXPECT_FALSE(line_.IsPending());
  lines.OnFunctionState({.bus_master = true, .msix_enabled = false});
  EXPECT_TRUE(line_.IsPending());
}

TEST_F(InterruptLinesTest, ALineThatIsEnabledAgainIsAssertedAnew) {
  InterruptLines lines = Lines(true);
  lines.SetIntx(true);
  ASSERT_TRUE(line_.Drain());
  lines.OnFunctionState({.intx_disabled = true});
  ASSERT_TRUE(line_.Drain());  // as KVM does once the vmm has bound it again
  lines.OnFunctionState({});
  EXPECT_TRUE(line_.Drain());
  lines.OnFunctionState({});  // disabled and enabled before the device heard of it
  EXPECT_TRUE(line_.IsPending());
}

TEST_F(InterruptLinesTest, TheEventOfADisabledLineFollowsTheLevel) {
  InterruptLines lines = Lines(true);
  lines.SetIntx(true);
  ASSERT_TRUE(line_.Drain());
  lines.OnFunctionState({.intx_disabled = true});
  EXPECT_TRUE(line_.IsPending());
  lines.SetIntx(false);
  EXPECT_FALSE(line_.IsPending());
  lines.SetIntx(true);
  EXPECT_TRUE(line_.IsPending());
  lines.SetIntx(false);
  lines.OnFunctionState({});
  EXPECT_FALSE(line_.IsPending());
}

TEST_F(InterruptLinesTest, ADisabledLineStaysSilentWhenMsixIsEnabled) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.msix_enabled = true, .intx_disabled = true});
  lines.SetIntx(true);
  EXPECT_FALSE(line_.IsPending());
}

TEST_F(InterruptLinesTest, AnEdgeTriggeredLineSignalsEachRisingEdge) {
  InterruptLines lines = Lines(false);
  EXPECT_EQ(lines.resample_fd(), -1);
  lines.SetIntx(true);
  EXPECT_TRUE(line_.Drain());
  lines.SetIntx(false);
  EXPECT_FALSE(line_.IsPending());
  lines.SetIntx(true);
  EXPECT_TRUE(line_.Drain());
}

TEST_F(InterruptLinesTest, AResetForgetsWhatWasHeldBack) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.msix_enabled = true});
  lines.SignalMsix(0);
  lines.Reset();
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_FALSE(vectors_[0].IsPending());
}

TEST_F(InterruptLinesTest, AResetForgetsTheLevel) {
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.intx_disabled = true});
  lines.SetIntx(true);
  ASSERT_TRUE(line_.IsPending());
  lines.Reset();
  EXPECT_FALSE(line_.IsPending()) << "it would be the interrupt status";
  lines.OnFunctionState({});
  EXPECT_FALSE(line_.IsPending());
  lines.SetIntx(true);
  EXPECT_TRUE(line_.IsPending());
}

TEST_F(InterruptLinesTest, AStaleEventIsTakenBack) {
  line_.Signal();
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({.intx_disabled = true});
  lines.DropStaleEvents();
  EXPECT_FALSE(line_.IsPending());
  lines.SetIntx(true);
  lines.DropStaleEvents();
  EXPECT_TRUE(line_.IsPending());
}

TEST_F(InterruptLinesTest, AStaleEventThatKvmTakesIsLeft) {
  line_.Signal();
  InterruptLines lines = Lines(true);
  lines.OnFunctionState({});
  lines.DropStaleEvents();
  EXPECT_TRUE(line_.IsPending());
}

TEST(InterruptLinesWithoutLineTest, NothingHappens) {
  InterruptLines lines({});
  lines.SetIntx(true);
  lines.SignalMsix(0);
  lines.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_EQ(lines.resample_fd(), -1);
}

}  // namespace
}  // namespace bulkhead::devices
