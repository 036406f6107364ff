#include "base/side_thread.h"

#include <memory>
#include <optional>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(SideThreadTest, JobsAreCarriedOutInTheirOrder) {
  SideThread side;
  std::vector<int> done;
  absl::Notification last;
  for (int i = 0; i < 1000; ++i) side.Add([&done, i] { done.push_back(i); });
  side.Add([&last] { last.Notify(); });
  last.WaitForNotification();
  ASSERT_EQ(done.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
}

TEST(SideThreadTest, AfterAPauseThereIsAThreadAgain) {
  SideThread side;
  for (int i = 0; i < 100; ++i) {
    absl::Notification done;
    side.Add([&done] { done.Notify(); });
    done.WaitForNotification();
  }
}

TEST(SideThreadTest, AJobThatBlocksHoldsUpNobodyButJobs) {
  absl::Notification goes_on, later;
  std::optional<SideThread> side;
  side.emplace();
  side->Add([&goes_on] { goes_on.WaitForNotification(); });
  side->Add([&later] { later.Notify(); });
  side.reset();
  EXPECT_FALSE(later.HasBeenNotified());
  goes_on.Notify();
  later.WaitForNotification();
}

}  // namespace
}  // namespace bulkhead
