#include <poll.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/channel_server.h"

// Many threads on one channel, under ThreadSanitizer: both ends use the same mapping, and the
// words of a slot are plain memory here (PublishedWord), so every access that the protocol does
// not order is reported. What the tests hand over beside the ring is plain memory too.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;

constexpr absl::Duration kLong = absl::Seconds(120);  // never passes in a test that works

// The device's thread: calls `handle` for each request, in order, until told to stop.
template <typename Handle>
void Serve(ChannelServer& server, const std::atomic<bool>& stop, Handle handle) {
  while (!stop.load()) {
    Request request;
    while (server.TryPeek(request)) handle(request);
    if (server.PollForRequest()) continue;
    if (!server.PrepareToSleep()) continue;
    pollfd event = {.fd = server.event_fd(), .events = POLLIN, .revents = 0};
    poll(&event, 1, 20);  // not for ever: nobody wakes it to stop
    server.AfterSleep();
  }
}

struct Shape {
  const char* name;
  uint32_t slots;
  absl::Duration max_poll;
};

class StressTest : public testing::TestWithParam<Shape> {
 protected:
  static constexpr uint32_t kProducers = 4;

  void SetUp() override {
    pair_ = *ChannelPeer::Connect(
        {.slots = GetParam().slots, .waiters = kProducers, .max_poll = GetParam().max_poll},
        GetParam().max_poll);
  }

  ChannelPeer::Pair pair_;
};

// Each producer's private memory passes to the device with a request, and back with the answer.
TEST_P(StressTest, MemoryPassesWithRequestsAndAnswers) {
  constexpr int kCalls = 3000;
  ChannelClient& client = *pair_.client;
  std::array<uint64_t, kProducers> passed = {};  // plain
  std::atomic<bool> stop{false};
  std::thread device([&] {
    Serve(*pair_.server, stop, [&](const Request& request) {
      ++passed[request.waiter];
      if (request.operation == Operation::kPostedWrite) {
        pair_.server->Retire(request);
      } else {
        pair_.server->Complete(request, request.data + 1);
      }
    });
  });
  std::vector<std::thread> producers;
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.emplace_back([&, i] {
      for (uint64_t k = 0; k < kCalls; ++k) {
        for (uint64_t posts = 0; posts < k % 3; ++posts) {
          ASSERT_TRUE(client.Post(i, 0, 0, 8, 0, kLong).ok());
        }
        const absl::StatusOr<uint64_t> answer =
            client.Call(Operation::kWrite, i, 0, 0, 8, k, kLong);
        ASSERT_TRUE(answer.ok()) << answer.status();
        ASSERT_EQ(*answer, k + 1);
        ++passed[i];
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  stop.store(true);
  device.join();
  for (const uint64_t count : passed) EXPECT_EQ(count, 2 * kCalls + kCalls);
}

// A lock goes from thread to thread, each posts while it holds it: the device must see the
// writes in the order in which the lock was held.
TEST_P(StressTest, PostedWritesArriveInTheOrderOfALockThatGoesFromThreadToThread) {
  constexpr uint64_t kWrites = 20000;
  ChannelClient& client = *pair_.client;
  uint64_t expected = 0;  // the device's
  std::atomic<bool> stop{false};
  std::thread device([&] {
    Serve(*pair_.server, stop, [&](const Request& request) {
      ASSERT_EQ(request.data, expected);
      ++expected;
      pair_.server->Retire(request);
    });
  });
  std::atomic_flag lock = ATOMIC_FLAG_INIT;
  uint64_t next = 0;  // guarded by the lock
  std::vector<std::thread> producers;
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.emplace_back([&, i] {
      bool more = true;
      while (more) {
        while (lock.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
        more = next < kWrites;
        if (more) {
          EXPECT_TRUE(client.Post(i, 0, 0, 8, next, kLong).ok());
          ++next;
        }
        lock.clear(std::memory_order_release);
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  while (client.device_report().processed < kWrites) std::this_thread::yield();
  stop.store(true);
  device.join();
  EXPECT_EQ(expected, kWrites);
}

// Time-outs, cancelling and a failure while all run: answers still go to the calls they belong
// to, and nothing is lost but what was given up.
TEST_P(StressTest, InterruptedWaitsMixUpNothing) {
  ChannelClient& client = *pair_.client;
  std::atomic<bool> stop{false};
  std::thread device([&] {
    uint64_t n = 0;
    Serve(*pair_.server, stop, [&](const Request& request) {
      if (++n % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      if (request.operation == Operation::kPostedWrite) {
        pair_.server->Retire(request);
      } else {
        pair_.server->Complete(request, ~request.data);
      }
    });
  });
  std::atomic<uint64_t> answered{0};
  std::vector<std::thread> producers;
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.emplace_back([&, i] {
      for (uint64_t k = 0;; ++k) {
        const absl::Status posted = client.Post(i, 0, 0, 8, k, absl::Microseconds(100));
        if (posted.code() == absl::StatusCode::kUnavailable) return;
        absl::StatusOr<uint64_t> answer =
            client.Call(Operation::kWrite, i, 0, 0, 8, k, absl::Microseconds(100));
        if (!answer.ok() && k % 2 == 0) answer = client.AwaitAnswer(i, absl::Milliseconds(1));
        if (answer.ok()) {
          ASSERT_EQ(*answer, ~k);
          answered.fetch_add(1);
        } else {
          ASSERT_NE(answer.status().code(), absl::StatusCode::kDataLoss) << answer.status();
        }
      }
    });
  }
  for (int i = 0; i < 50 || answered.load() < 2000; ++i) {
    client.CancelWaits();
    client.ResumeWaits();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  client.Fail(absl::UnavailableError("the end"));
  for (std::thread& producer : producers) producer.join();
  stop.store(true);
  device.join();
}

// One device process after the other, each ending as processes may: waited for by those who wait;
// with the channel failed; with all that is in the ring given up; having broken the protocol. The
// device's view is continuous, and each call ends by its own answer or for the right reason.
TEST_P(StressTest, RestartsMixUpNothing) {
  constexpr uint64_t kRestarts = 120;
  ChannelClient& client = *pair_.client;
  const ResponseView& responses = ChannelPeer::responses(client);
  std::atomic<bool> stop{false};
  std::vector<std::thread> producers;
  std::atomic<uint64_t> answered{0};
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.emplace_back([&, i] {
      for (uint64_t k = 0; !stop.load(); ++k) {
        client.Post(i, 0, 0, 8, k, kLong).IgnoreError();
        absl::StatusOr<uint64_t> answer = client.Call(Operation::kWrite, i, 0, 0, 8, k, kLong);
        // Kept waiting by a pause, and continued by the thread that ended the failure.
        while (!answer.ok() && (absl::IsCancelled(answer.status()) || k % 2 == 0) &&
               !absl::IsUnavailable(answer.status()) && !stop.load()) {
          const absl::StatusOr<uint64_t> later = client.AwaitAnswer(i, kLong);
          if (absl::IsFailedPrecondition(later.status())) break;  // was never sent
          answer = later;
        }
        if (answer.ok()) {
          ASSERT_EQ(*answer, ~k);
          answered.fetch_add(1);
        } else {
          ASSERT_NE(answer.status().code(), absl::StatusCode::kDeadlineExceeded);
        }
      }
    });
  }

  uint64_t expected = 1;  // the device's
  uint64_t random = 1;
  for (uint64_t restart = 1;; ++restart) {
    const uint64_t life = answered.load() + (random >> 33) % 64;
    std::thread device([&] {
      while (answered.load() < life) {
        Request request;
        if (pair_.server->TryPeek(request)) {
          ASSERT_EQ(request.ticket, expected);
          ++expected;
          if (request.operation == Operation::kPostedWrite) {
            pair_.server->Retire(request);
          } else {
            pair_.server->Complete(request, ~request.data);
          }
        } else if (!pair_.server->PollForRequest() && pair_.server->PrepareToSleep()) {
          pollfd event = {.fd = pair_.server->event_fd(), .events = POLLIN, .revents = 0};
          poll(&event, 1, 20);  // not for ever: `life` wakes nobody
          pair_.server->AfterSleep();
        }
      }
    });
    device.join();
    if (restart > kRestarts) break;
    random = random * 6364136223846793005 + 1442695040888963407;
    const uint64_t end = restart % 5;
    if (end == 1) client.Fail(absl::AbortedError("killed"));
    if (end == 2) responses.completion(random >> 33 & 3).ticket.store(random);
    if (end == 3) responses.header().head.store(random >> 60);
    if (random >> 35 & 1) client.CancelWaits();
    // Waits that find the lie before it is repaired, and those that do not.
    if (random >> 36 & 1) std::this_thread::yield();
    absl::StatusOr<SuccessorPlan> plan = client.PrepareSuccessor(/*discard_requests=*/end == 4);
    ASSERT_TRUE(plan.ok()) << plan.status();
    if (end < 2 || end == 4) {
      ASSERT_TRUE(plan->violation.ok()) << plan->violation;
    }
    if (end < 3) {
      ASSERT_EQ(plan->head + 1, expected);
    }
    expected = plan->head + 1;
    ASSERT_TRUE(ChannelPeer::Reconnect(pair_, restart + 1, GetParam().max_poll).ok());
    client.Reopen();
    client.ResumeWaits();
    ASSERT_TRUE(client.status().ok()) << "the successor is not to blame: " << client.status();
    client.metrics();
  }
  stop.store(true);
  client.Fail(absl::AbortedError("the end"));
  for (std::thread& producer : producers) producer.join();
  EXPECT_TRUE(client.PrepareSuccessor(false)->violation.ok());
  const ChannelMetrics metrics = client.metrics();
  EXPECT_EQ(metrics.polled_answers + metrics.slept_answers, answered.load());
}

// While no process serves, each preparation that gives requests up releases every waiter that
// slept when it began, and leaves nothing that keeps sleepers running.
TEST_P(StressTest, EachPreparationReleasesEverySleeper) {
  constexpr int kRounds = 100;
  ChannelClient& client = *pair_.client;
  pair_.server.reset();
  std::atomic<bool> stop{false};
  std::array<std::atomic<int>, kProducers> released = {};
  std::vector<std::thread> producers;
  for (uint32_t i = 0; i < kProducers; ++i) {
    producers.emplace_back([&, i] {
      while (!stop.load()) {
        const auto answer = client.Call(Operation::kRead, i, 0, 0, 8, 0, kLong);
        ASSERT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
        released[i].fetch_add(1);
      }
    });
  }
  for (int round = 0; round < kRounds; ++round) {
    // One in four rounds finds the waiters anywhere.
    const bool asleep = round % 4 != 0;
    std::array<int, kProducers> before = {};
    for (uint32_t i = 0; asleep && i < kProducers; ++i) {
      ChannelPeer::AwaitSleep(client, i);
      before[i] = released[i].load();
      // Awake again: it was released by the round before, and had not noticed.
      if (!ChannelPeer::Sleeps(client, i)) --i;
    }
    ASSERT_TRUE(client.PrepareSuccessor(/*discard_requests=*/true).ok());
    for (uint32_t i = 0; asleep && i < kProducers; ++i) {
      while (released[i].load() == before[i]) std::this_thread::yield();
    }
  }
  stop.store(true);
  client.Fail(absl::UnavailableError("the end"));
  for (std::thread& producer : producers) producer.join();
  client.Reopen();
  EXPECT_FALSE(ChannelPeer::Interrupted(client));
}

INSTANTIATE_TEST_SUITE_P(Shapes, StressTest,
                         testing::Values(Shape{"PollingInALargeRing", 256, absl::Microseconds(50)},
                                         Shape{"SleepingInALargeRing", 256, absl::ZeroDuration()},
                                         Shape{"PollingInATinyRing", 4, absl::Microseconds(50)},
                                         Shape{"SleepingInATinyRing", 4, absl::ZeroDuration()}),
                         [](const testing::TestParamInfo<Shape>& info) { return info.param.name; });

}  // namespace
}  // namespace bulkhead::channel
