#include "vmm/vm/vm_state.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;

v1::VmStatus Describe(const VmState& state) {
  v1::VmStatus status;
  state.Describe(status);
  return status;
}

// "RUNNING", "PAUSED: why", "guest reset: why"
std::vector<std::string> Events(const EventLog& log) {
  std::vector<std::string> texts;
  for (const v1::Event& event : log.EventsAfter(0, 100)) {
    if (event.has_guest_reset()) {
      texts.push_back("guest reset: " + event.guest_reset().reason());
    } else {
      const v1::VmStateChanged& change = event.vm_state();
      texts.push_back(v1::VmStatus::State_Name(change.state()) +
                      (change.reason().empty() ? "" : ": " + change.reason()));
    }
  }
  return texts;
}

TEST(VmStateTest, TheReasonBelongsToTheState) {
  EventLog log;
  VmState state(log);
  EXPECT_EQ(Describe(state).state(), v1::VmStatus::STARTING);
  EXPECT_FALSE(Describe(state).has_guest_uptime());
  EXPECT_TRUE(Describe(state).has_start_time());

  state.NoteBoot();
  state.SetRunning();
  EXPECT_EQ(Describe(state).state(), v1::VmStatus::RUNNING);
  EXPECT_TRUE(Describe(state).has_guest_uptime());

  state.SetPaused("a client");
  EXPECT_EQ(Describe(state).pause_reason(), "a client");
  EXPECT_EQ(Describe(state).exit_reason(), "");

  state.SetEnding("power-off");
  EXPECT_EQ(Describe(state).state(), v1::VmStatus::ENDING);
  EXPECT_EQ(Describe(state).pause_reason(), "");
  EXPECT_EQ(Describe(state).exit_reason(), "power-off");
}

TEST(VmStateTest, EachChangeIsOneEvent) {
  EventLog log;
  VmState state(log);
  state.SetRunning();
  state.SetRunning();
  state.SetPaused("a");
  state.SetPaused("a");
  state.SetPaused("b");
  state.SetRunning();
  EXPECT_THAT(Events(log), ElementsAre("RUNNING", "PAUSED: a", "PAUSED: b", "RUNNING"));
}

TEST(VmStateTest, RebootsAreCountedAndReported) {
  EventLog log;
  VmState state(log);
  state.SetRunning();
  state.SetRebooting("the guest asked");
  EXPECT_EQ(Describe(state).state(), v1::VmStatus::REBOOTING);
  state.SetRunning();
  state.SetRebooting("the guest asked");
  EXPECT_EQ(Describe(state).reboots(), 2u);
  EXPECT_THAT(Events(log),
              ElementsAre("RUNNING", "guest reset: the guest asked", "REBOOTING: the guest asked",
                          "RUNNING", "guest reset: the guest asked", "REBOOTING: the guest asked"));
}

}  // namespace
}  // namespace bulkhead::vmm
