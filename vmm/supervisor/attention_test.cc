#include "vmm/supervisor/attention.h"

#include <atomic>
#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using Urgency = Attention::Urgency;

constexpr absl::Duration kLong = absl::Seconds(60);

TEST(AttentionTest, WaitReturnsForADemandThatCameBefore) {
  const std::shared_ptr<Attention> attention = *Attention::Create();
  attention->Take();
  attention->Demand(Urgency::kNews);
  const absl::Time start = absl::Now();
  attention->Wait(kLong);
  EXPECT_LT(absl::Now() - start, kLong / 2);
}

TEST(AttentionTest, WaitReturnsForADemandThatComesMeanwhile) {
  const std::shared_ptr<Attention> attention = *Attention::Create();
  attention->Take();
  std::thread other([&] { attention->Demand(Urgency::kNews); });
  const absl::Time start = absl::Now();
  attention->Wait(kLong);
  other.join();
  EXPECT_LT(absl::Now() - start, kLong / 2);
}

TEST(AttentionTest, WaitLastsForItsLimitOnceADemandWasTaken) {
  const std::shared_ptr<Attention> attention = *Attention::Create();
  attention->Demand(Urgency::kEnd);
  attention->Take();
  const absl::Time start = absl::Now();
  attention->Wait(absl::Milliseconds(20));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(20));
}

TEST(AttentionTest, ADemandInterruptsWhatItIsUrgentEnoughFor) {
  const std::shared_ptr<Attention> attention = *Attention::Create();
  int interrupts = 0;
  {
    const Attention::Interruptible wait(*attention, Urgency::kCommand, [&] { ++interrupts; });
    attention->Demand(Urgency::kNews);
    EXPECT_FALSE(wait.interrupted());
    attention->Demand(Urgency::kCommand);
    EXPECT_TRUE(wait.interrupted());
    attention->Demand(Urgency::kEnd);
    EXPECT_EQ(interrupts, 1);
  }
  attention->Take();
  attention->Demand(Urgency::kEnd);
  EXPECT_EQ(interrupts, 1);
}

TEST(AttentionTest, ADemandThatWasNotTakenInterruptsTheNextWaitAtOnce) {
  const std::shared_ptr<Attention> attention = *Attention::Create();
  attention->Demand(Urgency::kNews);
  int interrupts = 0;
  {
    const Attention::Interruptible wait(*attention, Urgency::kNews, [&] { ++interrupts; });
    EXPECT_TRUE(wait.interrupted());
  }
  attention->Take();
  const Attention::Interruptible wait(*attention, Urgency::kNews, [&] { ++interrupts; });
  EXPECT_EQ(interrupts, 1);
}

// Whatever the interleaving: work that was there before its demand is done without a wait that
// lasts.
TEST(AttentionTest, NoDemandIsLost) {
  const std::shared_ptr<Attention> attention = *Attention::Create();
  constexpr int kItems = 20000;
  std::atomic<int> items{0};
  std::thread producer([&] {
    for (int i = 0; i < kItems; ++i) {
      items.fetch_add(1);
      attention->Demand(Urgency::kNews);
    }
  });
  int done = 0;
  int lasting_waits = 0;
  while (done < kItems) {
    attention->Take();
    const int seen = items.load();
    if (seen > done) {
      done = seen;
      if (done % 2 == 0) continue;
      absl::Notification interrupted;  // a call that only an interruption ends
      const Attention::Interruptible wait(*attention, Urgency::kNews,
                                          [&] { interrupted.Notify(); });
      if (done < kItems && !interrupted.WaitForNotificationWithTimeout(kLong)) ++lasting_waits;
      continue;
    }
    const absl::Time start = absl::Now();
    attention->Wait(kLong);
    if (absl::Now() - start > kLong / 2) ++lasting_waits;
  }
  producer.join();
  EXPECT_EQ(lasting_waits, 0);
}

}  // namespace
}  // namespace bulkhead::vmm
