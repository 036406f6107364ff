#include "base/steady_cond_var.h"

#include <thread>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(SteadyCondVarTest, AWaitEndsAtItsDeadlineAndNotBefore) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(20);
  absl::MutexLock lock(&mutex);
  while (changed.WaitUntil(&mutex, deadline)) {
  }
  EXPECT_GE(SteadyNow(), deadline);
}

TEST(SteadyCondVarTest, ADeadlineInThePastIsNotWaitedFor) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  absl::MutexLock lock(&mutex);
  EXPECT_FALSE(changed.WaitUntil(&mutex, absl::InfinitePast()));
  EXPECT_FALSE(changed.WaitFor(&mutex, absl::ZeroDuration()));
}

TEST(SteadyCondVarTest, ASignalEndsAWaitWithoutLimit) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  bool done = false;
  std::thread signaller([&] {
    absl::MutexLock lock(&mutex);
    done = true;
    changed.SignalAll();
  });
  {
    absl::MutexLock lock(&mutex);
    while (!done) EXPECT_TRUE(changed.WaitFor(&mutex, absl::InfiniteDuration()));
  }
  signaller.join();
}

}  // namespace
}  // namespace bulkhead
