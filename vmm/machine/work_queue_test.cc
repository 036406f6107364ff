#include "vmm/machine/work_queue.h"

#include <poll.h>

#include <memory>
#include <thread>
#include <vector>

#include "base/testing/streams.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(WorkQueueTest, RunDoesTheWorkInItsOrder) {
  const std::unique_ptr<WorkQueue> queue = *WorkQueue::Create();
  std::vector<int> done;
  EXPECT_FALSE(IsReadable(queue->fd()));
  EXPECT_TRUE(queue->Add([&] { done.push_back(1); }));
  EXPECT_TRUE(queue->Add([&] { done.push_back(2); }));
  EXPECT_TRUE(IsReadable(queue->fd()));
  EXPECT_TRUE(done.empty());
  queue->Run();
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
  EXPECT_FALSE(IsReadable(queue->fd()));
}

TEST(WorkQueueTest, WorkMayAddWork) {
  const std::unique_ptr<WorkQueue> queue = *WorkQueue::Create();
  std::vector<int> done;
  queue->Add([&] {
    done.push_back(1);
    queue->Add([&] { done.push_back(2); });
  });
  queue->Run();
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
}

TEST(WorkQueueTest, AClosedQueueRefusesWorkButDoesTheQueuedWork) {
  const std::unique_ptr<WorkQueue> queue = *WorkQueue::Create();
  std::vector<int> done;
  queue->Add([&] { done.push_back(1); });
  queue->Close();
  EXPECT_FALSE(queue->Add([&] { done.push_back(2); }));
  queue->Run();
  EXPECT_EQ(done, (std::vector<int>{1}));
}

TEST(WorkQueueTest, NothingIsLostBetweenManyThreads) {
  const std::unique_ptr<WorkQueue> queue = *WorkQueue::Create();
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  int done = 0;  // used by the running thread only
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < kEach; ++j) queue->Add([&] { ++done; });
    });
  }
  while (done < kThreads * kEach) {
    pollfd p = {.fd = queue->fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&p, 1, 30'000), 1) << "work is queued, but the descriptor is not readable";
    queue->Run();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, kThreads * kEach);
}

}  // namespace
}  // namespace bulkhead::vmm
