#include "vmm/supervisor/absence.h"

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kAtLast = absl::Seconds(60);

class AbsenceTest : public testing::Test {
 protected:
  std::unique_ptr<Absence> Device(absl::Duration before_hold, absl::Duration timeout) {
    auto absence = Absence::Create({.before_hold = before_hold,
                                    .timeout = timeout,
                                    .is_used =
                                        [this] {
                                          absl::MutexLock lock(&mutex_);
                                          return used_;
                                        },
                                    .awaits_back_end =
                                        [this] {
                                          absl::MutexLock lock(&mutex_);
                                          return awaits_back_end_;
                                        },
                                    .hold =
                                        [this](bool hold) {
                                          absl::MutexLock lock(&mutex_);
                                          held_ = hold;
                                          ++changes_;
                                          changed_.SignalAll();
                                        }});
    EXPECT_TRUE(absence.ok()) << absence.status();
    return *std::move(absence);
  }
  bool BecomesHeld(bool held) {
    absl::MutexLock lock(&mutex_);
    const absl::Time deadline = SteadyNow() + kAtLast;
    while (held_ != held && SteadyNow() < deadline) changed_.WaitUntil(&mutex_, deadline);
    return held_ == held;
  }
  int changes() {
    absl::MutexLock lock(&mutex_);
    return changes_;
  }
  void Use(bool used) {
    absl::MutexLock lock(&mutex_);
    used_ = used;
  }
  void AwaitBackEnd(bool awaits) {
    absl::MutexLock lock(&mutex_);
    awaits_back_end_ = awaits;
  }

 private:
  absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool used_ ABSL_GUARDED_BY(mutex_) = true;
  bool awaits_back_end_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int changes_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST_F(AbsenceTest, OfADeviceInUseHoldsUntilItEnds) {
  const auto device = Device(absl::Milliseconds(1), absl::Hours(1));
  device->Begin(SteadyNow());
  EXPECT_TRUE(BecomesHeld(true));
  device->End();
  EXPECT_TRUE(BecomesHeld(false));
  EXPECT_EQ(changes(), 2);
}

TEST_F(AbsenceTest, HoldsNoLongerThanAnybodyWaits) {
  const auto device = Device(absl::Milliseconds(1), absl::Milliseconds(20));
  device->Begin(SteadyNow() - absl::Milliseconds(2));
  EXPECT_TRUE(BecomesHeld(false));
  device->Begin(SteadyNow() - absl::Hours(1));
  EXPECT_TRUE(BecomesHeld(false));
}

TEST_F(AbsenceTest, ThatEndsBeforeItsTimeHoldsNothing) {
  const auto device = Device(absl::Hours(1), absl::Hours(2));
  device->Begin(SteadyNow());
  device->End();
  EXPECT_EQ(changes(), 0);
}

TEST_F(AbsenceTest, HoldsOnceTheGuestBeginsToUseTheDevice) {
  Use(false);
  const auto device = Device(absl::ZeroDuration(), absl::Hours(1));
  device->Begin(SteadyNow());
  EXPECT_EQ(changes(), 0);
  Use(true);
  EXPECT_TRUE(BecomesHeld(true));
}

TEST_F(AbsenceTest, HoldsWhileTheProcessWaitsForItsBackEnd) {
  const auto device = Device(absl::Milliseconds(1), absl::Hours(1));
  AwaitBackEnd(true);
  device->End();  // as any other look of the clock
  EXPECT_TRUE(BecomesHeld(true));
  // Both are away: the hold ends with the last.
  device->Begin(SteadyNow() - absl::Seconds(1));
  AwaitBackEnd(false);
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(changes(), 1);
  device->End();
  EXPECT_TRUE(BecomesHeld(false));
  AwaitBackEnd(true);
  device->End();
  EXPECT_TRUE(BecomesHeld(true));
  AwaitBackEnd(false);
  EXPECT_TRUE(BecomesHeld(false)) << "nobody tells";
}

TEST_F(AbsenceTest, HoldsForABackEndNoLongerThanAnybodyWaits) {
  const auto device = Device(absl::Milliseconds(1), absl::Milliseconds(100));
  AwaitBackEnd(true);
  device->End();
  while (changes() < 2) absl::SleepFor(absl::Milliseconds(1));
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(changes(), 2) << "held again for the same wait";
}

TEST_F(AbsenceTest, EachDeviceHasItsOwn) {
  const auto late = Device(absl::Hours(1), absl::Hours(2));
  late->Begin(SteadyNow());
  const auto soon = Device(absl::Milliseconds(1), absl::Hours(1));
  soon->Begin(SteadyNow());
  EXPECT_TRUE(BecomesHeld(true));
  late->End();
  EXPECT_EQ(changes(), 1);
}

}  // namespace
}  // namespace bulkhead::vmm
