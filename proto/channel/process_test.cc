#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_server.h"
#include "proto/channel/connect_server.h"

// Real device processes that are killed and stopped at any moment.

namespace bulkhead::channel {
namespace {

using Request = ChannelServer::Request;

constexpr absl::Duration kLong = absl::Seconds(120);  // never passes in a test that works

// What the device processes have done, one after the other. Shared with the test.
struct Journal {
  // More than a device does before a busy machine lets the test kill it, 60 times; of the memory
  // only what is written is there.
  static constexpr uint64_t kCapacity = 1 << 25;
  std::atomic<uint64_t> length;
  std::atomic<uint64_t> tickets[kCapacity];
};

// A device process, forked before the test has threads, that starts when it is told to.
class Device {
 public:
  Device(const ChannelClient& client, Journal& journal, uint64_t generation)
      : journal_(journal), process_(Fork(client, generation)) {}
  ~Device() {
    if (alive_) Kill();
  }

  void Start() { start_.Signal(); }
  void Kill() {
    ASSERT_TRUE(process_->Signal(SIGKILL).ok());
    ASSERT_EQ(process_->Wait(kLong)->ToString(), "killed by signal 9 (Killed)");
    alive_ = false;
  }
  void Signal(int signal) { ASSERT_TRUE(process_->Signal(signal).ok()); }

 private:
  std::unique_ptr<PidFd> Fork(const ChannelClient& client, uint64_t generation) {
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() == parent) Run(client, generation);
      _exit(1);
    }
    return std::make_unique<PidFd>(*PidFd::Open(child));
  }

  void Run(const ChannelClient& client, uint64_t generation) {
    pollfd start = {.fd = start_.fd(), .events = POLLIN, .revents = 0};
    poll(&start, 1, -1);
    auto server = *ConnectServer(client, generation, absl::Microseconds(50));
    while (true) {
      Request request;
      while (server->TryPeek(request)) {
        const uint64_t n = journal_.length.load();
        if (n == Journal::kCapacity) _exit(2);
        journal_.tickets[n].store(request.ticket);
        journal_.length.store(n + 1);
        if (request.operation == Operation::kPostedWrite) {
          server->Retire(request);
        } else {
          server->Complete(request, request.offset + 1);
        }
      }
      if (server->PollForRequest()) continue;
      if (!server->PrepareToSleep()) continue;
      pollfd event = {.fd = server->event_fd(), .events = POLLIN, .revents = 0};
      poll(&event, 1, -1);  // for ever: a lost wake-up hangs the test
      server->AfterSleep();
    }
  }

  Journal& journal_;
  const EventFd start_ = *EventFd::Create();
  const std::unique_ptr<PidFd> process_;
  bool alive_ = true;
};

class ProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    void* memory =
        mmap(nullptr, sizeof(Journal), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    journal_ = static_cast<Journal*>(memory);
    client_ = *ChannelClient::Create({.slots = 16, .waiters = 3});
  }
  void TearDown() override { munmap(journal_, sizeof(Journal)); }

  Journal* journal_ = nullptr;
  std::unique_ptr<ChannelClient> client_;
};

TEST_F(ProcessTest, KillingTheDeviceOverAndOverLosesAndReordersNothing) {
  constexpr int kKills = 60;
  std::vector<std::unique_ptr<Device>> devices;
  for (int i = 0; i <= kKills; ++i) {
    devices.push_back(std::make_unique<Device>(*client_, *journal_, i + 1));
  }
  std::atomic<bool> stop{false};
  std::vector<std::thread> vcpus;
  std::atomic<uint64_t> sent{0};
  for (uint32_t waiter = 0; waiter < 3; ++waiter) {
    vcpus.emplace_back([&, waiter] {
      for (uint64_t k = 0; !stop.load(); ++k) {
        for (uint64_t posts = 0; posts < k % 8; ++posts) {
          ASSERT_TRUE(client_->Post(waiter, 0, 0, 8, 0, kLong).ok());
        }
        const absl::StatusOr<uint64_t> answer =
            client_->Call(Operation::kRead, waiter, 0, k, 8, 0, kLong);
        ASSERT_TRUE(answer.ok()) << answer.status();
        ASSERT_EQ(*answer, k + 1);
        sent.fetch_add(k % 8 + 1);
      }
    });
  }
  uint32_t random = 1;
  for (int i = 0; i < kKills; ++i) {
    const uint64_t seen = client_->device_report().processed;
    devices[i]->Start();
    random = random * 1664525 + 1013904223;
    while (client_->device_report().processed < seen + (random >> 16) % 400) {
      std::this_thread::yield();
    }
    devices[i]->Kill();
    const absl::StatusOr<SuccessorPlan> plan = client_->PrepareSuccessor(false);
    ASSERT_TRUE(plan.ok() && plan->violation.ok()) << plan->violation;
  }
  devices[kKills]->Start();
  while (client_->device_report().generation != kKills + 1) std::this_thread::yield();
  stop.store(true);
  for (std::thread& vcpu : vcpus) vcpu.join();
  while (client_->device_report().processed < sent.load()) std::this_thread::yield();

  // Every ticket was applied, in order; one that a kill interrupted, once more.
  uint64_t expected = 1;
  int repeated = 0;
  const uint64_t length = journal_->length.load();
  for (uint64_t i = 0; i < length; ++i) {
    const uint64_t ticket = journal_->tickets[i].load();
    if (ticket == expected) {
      ++expected;
    } else {
      ASSERT_EQ(ticket, expected - 1);
      ++repeated;
    }
  }
  EXPECT_EQ(expected, sent.load() + 1);
  EXPECT_LE(repeated, kKills);
}

TEST_F(ProcessTest, FailReleasesTheVcpusThatAKilledDeviceLeftWaiting) {
  Device device(*client_, *journal_, 1);
  absl::Status read;
  std::thread vcpu([&] {
    while (read.ok()) read = client_->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong).status();
  });
  device.Start();
  while (client_->device_report().processed < 1000) std::this_thread::yield();
  device.Kill();
  client_->Fail(absl::UnavailableError("the device was killed by signal 9"));
  vcpu.join();
  EXPECT_EQ(read, absl::UnavailableError("the device was killed by signal 9"));
}

TEST_F(ProcessTest, AStoppedDeviceCostsATimeoutAndAnswersOnceItGoesOn) {
  Device device(*client_, *journal_, 1);
  device.Start();
  ASSERT_TRUE(client_->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong).ok());
  device.Signal(SIGSTOP);
  // The stop is carried out in its own time; some answers may still come.
  absl::StatusOr<uint64_t> answer = 0;
  while (answer.ok()) {
    answer = client_->Call(Operation::kRead, 0, 0, 41, 8, 0, absl::Milliseconds(20));
  }
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kDeadlineExceeded);
  device.Signal(SIGCONT);
  EXPECT_EQ(*client_->AwaitAnswer(0, kLong), 42u);
}

}  // namespace
}  // namespace bulkhead::channel
