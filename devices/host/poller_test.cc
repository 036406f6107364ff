#include "devices/host/poller.h"

#include <memory>

#include "absl/time/time.h"
#include "base/event_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::devices {
namespace {

class PollerTest : public testing::Test {
 protected:
  bool Wait() { return poller_->Wait(absl::ZeroDuration()); }

  std::unique_ptr<Poller> poller_ = *Poller::Create();
  EventFd first_ = *EventFd::Create();
  EventFd second_ = *EventFd::Create();
  int first_calls_ = 0;
  int second_calls_ = 0;
};

TEST_F(PollerTest, ALevelIsReportedUntilItIsGone) {
  ASSERT_TRUE(poller_->Add(first_.fd(), Poller::Trigger::kLevel, [&] { ++first_calls_; }).ok());
  EXPECT_FALSE(Wait());
  first_.Signal();
  EXPECT_TRUE(Wait());
  EXPECT_TRUE(Wait());
  EXPECT_EQ(first_calls_, 2);
  first_.Drain();
  EXPECT_FALSE(Wait());
}

TEST_F(PollerTest, AnEdgeIsReportedOncePerSignalWithoutAnyRead) {
  ASSERT_TRUE(poller_->Add(first_.fd(), Poller::Trigger::kEdge, [&] { ++first_calls_; }).ok());
  for (int i = 1; i <= 3; ++i) {
    first_.Signal();
    EXPECT_TRUE(Wait());
    EXPECT_FALSE(Wait());
    EXPECT_EQ(first_calls_, i);
  }
}

TEST_F(PollerTest, ASignalBeforeTheRegistrationIsReported) {
  first_.Signal();
  ASSERT_TRUE(poller_->Add(first_.fd(), Poller::Trigger::kEdge, [&] { ++first_calls_; }).ok());
  EXPECT_TRUE(Wait());
  EXPECT_EQ(first_calls_, 1);
}

TEST_F(PollerTest, ACallbackMayRemoveItselfAndOthersThatAreReady) {
  const auto remove_both = [&] {
    ++first_calls_;
    poller_->Remove(first_.fd());
    poller_->Remove(second_.fd());
  };
  ASSERT_TRUE(poller_->Add(first_.fd(), Poller::Trigger::kLevel, remove_both).ok());
  ASSERT_TRUE(poller_->Add(second_.fd(), Poller::Trigger::kLevel, remove_both).ok());
  first_.Signal();
  second_.Signal();
  EXPECT_TRUE(Wait());
  EXPECT_EQ(first_calls_, 1);
  EXPECT_FALSE(Wait());
}

TEST_F(PollerTest, ACallbackMayReplaceItself) {
  ASSERT_TRUE(
      poller_
          ->Add(first_.fd(), Poller::Trigger::kLevel,
                [&] {
                  ++first_calls_;
                  poller_->Remove(first_.fd());
                  ASSERT_TRUE(
                      poller_->Add(first_.fd(), Poller::Trigger::kLevel, [&] { ++second_calls_; })
                          .ok());
                })
          .ok());
  first_.Signal();
  EXPECT_TRUE(Wait());
  EXPECT_TRUE(Wait());
  EXPECT_EQ(first_calls_, 1);
  EXPECT_EQ(second_calls_, 1);
}

TEST_F(PollerTest, APausedDescriptorCallsNobodyAndIsLookedAtWhenItGoesOn) {
  const auto pause_other = [&] {
    ++first_calls_;
    poller_->SetPaused(second_.fd(), true);
  };
  ASSERT_TRUE(poller_->Add(first_.fd(), Poller::Trigger::kEdge, pause_other).ok());
  ASSERT_TRUE(poller_->Add(second_.fd(), Poller::Trigger::kEdge, [&] { ++second_calls_; }).ok());
  first_.Signal();
  second_.Signal();
  EXPECT_TRUE(Wait());
  EXPECT_EQ(first_calls_, 1);
  EXPECT_EQ(second_calls_, 0) << "it was ready already";
  second_.Signal();
  EXPECT_FALSE(Wait());
  poller_->SetPaused(second_.fd(), false);
  EXPECT_TRUE(Wait());
  EXPECT_EQ(second_calls_, 1);
  second_.Drain();
  poller_->SetPaused(second_.fd(), true);
  poller_->SetPaused(second_.fd(), false);
  EXPECT_FALSE(Wait());
}

TEST_F(PollerTest, ADescriptorCanBeAddedOnlyOnce) {
  ASSERT_TRUE(poller_->Add(first_.fd(), Poller::Trigger::kLevel, [] {}).ok());
  EXPECT_FALSE(poller_->Add(first_.fd(), Poller::Trigger::kLevel, [] {}).ok());
}

TEST_F(PollerTest, RemovingWhatIsNotThereDoesNothing) {
  poller_->Remove(first_.fd());
  EXPECT_FALSE(Wait());
}

}  // namespace
}  // namespace bulkhead::devices
