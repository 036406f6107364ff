#include "vmm/supervisor/heartbeats.h"

#include <poll.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "base/steady_time.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_clock.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/vm/event_log.h"

// The test is the supervisor's thread and the device process.

namespace bulkhead::vmm {
namespace {

using channel::ChannelClient;
using channel::ChannelServer;

constexpr absl::Duration kInterval = absl::Milliseconds(10);
constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works
constexpr uint32_t kVmm = 1;                         // the waiter
constexpr char kHangs[] = "it did not answer its heartbeats";

class HeartbeatsTest : public testing::Test {
 protected:
  // The process lives until `done`, and does this about once a millisecond.
  bool LiveUntil(const std::function<bool()>& done, const std::function<void()>& live) {
    const absl::Time deadline = SteadyNow() + kLong;
    while (!done()) {
      if (SteadyNow() > deadline) return false;
      live();
      poll(nullptr, 0, 1);
    }
    return true;
  }
  void Beat(bool in_long_call = false) {
    if (server_->heartbeat_wanted()) server_->AnswerHeartbeat(in_long_call);
  }
  std::string Check() {
    return heartbeats_.Check([this] { return channel_->OldestPending(kVmm); });
  }
  v1::Heartbeat Reported() { return report_.device().heartbeat(); }

  const DeviceSpec spec_ = [] {
    DeviceSpec spec;
    spec.name = "disk0";
    spec.heartbeat = {.interval = kInterval, .misses = 3, .stall_timeout = 4 * kInterval};
    spec.access_timeout = 20 * kInterval;
    return spec;
  }();
  EventLog events_;
  DeviceReport report_{spec_, events_};
  const std::shared_ptr<Attention> attention_ = *Attention::Create();
  const std::unique_ptr<ChannelClient> channel_ = *ChannelClient::Create({.waiters = 2});
  std::unique_ptr<ChannelServer> server_ = *channel::ConnectServer(*channel_);
  Heartbeats heartbeats_{spec_.heartbeat, spec_.access_timeout, **DeviceClock::Get(), attention_,
                         report_};
};

TEST_F(HeartbeatsTest, OfAnIdleDeviceAreAnsweredAndNoNews) {
  heartbeats_.Begin(*channel_);
  ASSERT_TRUE(LiveUntil([&] { return Reported().answered() >= 5; }, [&] { Beat(); }));
  EXPECT_FALSE(heartbeats_.has_news());
  EXPECT_EQ(heartbeats_.silent_since(), absl::InfiniteFuture());
  EXPECT_LT(Reported().round_trip().seconds(), 60);
}

TEST_F(HeartbeatsTest, ThatAreMissedInARowAreAHang) {
  const absl::Time before = SteadyNow();
  heartbeats_.Begin(*channel_);
  ASSERT_TRUE(LiveUntil([&] { return heartbeats_.has_news(); }, [] {}));
  EXPECT_EQ(Check(), kHangs);
  EXPECT_EQ(Reported().missed_in_a_row(), 3u);
  EXPECT_GE(heartbeats_.silent_since(), before);
  EXPECT_LE(heartbeats_.silent_since(), SteadyNow());
  heartbeats_.End();
  EXPECT_FALSE(heartbeats_.has_news());
  EXPECT_LE(heartbeats_.silent_since(), SteadyNow()) << "it is asked for after the end, too";
  server_ = *channel::ConnectServer(*channel_, 2);
  heartbeats_.Begin(*channel_);
  EXPECT_EQ(heartbeats_.silent_since(), absl::InfiniteFuture());
}

TEST_F(HeartbeatsTest, AnAnswerThatIsLateEndsARowOfMisses) {
  heartbeats_.Begin(*channel_);
  for (int i = 0; i < 3; ++i) {
    const uint64_t answered = Reported().answered();
    ASSERT_TRUE(LiveUntil([&] { return Reported().missed_in_a_row() >= 2; }, [] {}));
    if (heartbeats_.has_news()) continue;  // this thread was late
    ASSERT_TRUE(LiveUntil([&] { return Reported().answered() > answered; }, [&] { Beat(); }));
    EXPECT_EQ(Reported().missed_in_a_row(), 0u);
    EXPECT_FALSE(heartbeats_.has_news());
  }
}

TEST_F(HeartbeatsTest, AnotherNumberThanWasAskedForIsAMiss) {
  const MemoryMapping response =
      *MemoryMapping::Map(channel_->response_memory_fd(), 0, channel::ResponseView::SizeBytes(2),
                          MemoryMapping::Protection::kReadWrite);
  std::atomic<uint64_t>& answer = channel::ResponseView(response.data()).header().heartbeat;
  for (const uint64_t off : {~uint64_t{0}, uint64_t{1}}) {
    heartbeats_.Begin(*channel_);
    const uint64_t before = Reported().answered();
    ASSERT_TRUE(LiveUntil([&] { return Reported().answered() > before; }, [&] { Beat(); }));
    ASSERT_TRUE(LiveUntil([&] { return heartbeats_.has_news(); },
                          [&] {
                            if (!server_->heartbeat_wanted()) return;
                            const uint64_t number = (answer >> 1) + 1;  // that is asked for
                            server_->AnswerHeartbeat(false);
                            answer = (number + off) << 1;
                          }));
    EXPECT_EQ(Check(), kHangs);
    heartbeats_.End();
  }
}

TEST_F(HeartbeatsTest, AnAccessThatStaysUnansweredIsAStall) {
  heartbeats_.Begin(*channel_);
  ASSERT_TRUE(channel_->Post(0, 0, 0, 8, 1, kLong).ok());
  std::string why;
  ASSERT_TRUE(LiveUntil([&] { return !(why = Check()).empty(); }, [&] { Beat(); }));
  EXPECT_EQ(why, "it left an access unanswered for 40ms while it answered its heartbeats");
  EXPECT_LE(heartbeats_.silent_since(), SteadyNow() - 4 * kInterval);
}

TEST_F(HeartbeatsTest, ALongCallMayTakeAsLongAsAnAccessMayWait) {
  heartbeats_.Begin(*channel_);
  const absl::Time begin = SteadyNow();
  ASSERT_TRUE(channel_->Post(0, 0, 0, 8, 1, kLong).ok());
  std::string why;
  ASSERT_TRUE(LiveUntil([&] { return !(why = Check()).empty(); }, [&] { Beat(true); }));
  EXPECT_GE(SteadyNow() - begin, 20 * kInterval);
}

TEST_F(HeartbeatsTest, AreNotAskedForWhereTheyAreTurnedOff) {
  Heartbeats none({.interval = absl::ZeroDuration()}, kLong, **DeviceClock::Get(), attention_,
                  report_);
  none.Begin(*channel_);
  poll(nullptr, 0, 50);
  EXPECT_FALSE(server_->heartbeat_wanted());
  EXPECT_FALSE(none.has_news());
}

}  // namespace
}  // namespace bulkhead::vmm
