#include "vmm/vcpu/vcpu_threads.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "vmm/hypervisor/vcpu.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);
constexpr uint64_t kDevice = 0xc0000000;

// A vCPU whose guest is a function, called for each Run() that is not interrupted. Follows the
// kernel's rules for interruption.
class FakeVcpu : public Vcpu {
 public:
  using Guest = std::function<VcpuExit(FakeVcpu&)>;

  explicit FakeVcpu(Guest guest) : guest_(std::move(guest)) {}

  VcpuExit Run() override {
    runs.fetch_add(1);
    if (immediate_exit_.load()) return InterruptedExit{};
    return guest_(*this);
  }
  void RequestExit() override { immediate_exit_.store(true); }
  void ClearExitRequest() override { immediate_exit_.store(false); }
  void NotePause() override { pauses.fetch_add(1); }
  std::string DescribeState() override { return "rip=0x1234"; }

  // Guest code that never exits: only a signal ends it, also one that came just before.
  VcpuExit SpinUntilSignal() {
    sigset_t kick, before;
    sigemptyset(&kick);
    sigaddset(&kick, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &kick, &before);
    if (!immediate_exit_.load()) sigsuspend(&before);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return InterruptedExit{};
  }

  std::atomic<int> runs{0};
  std::atomic<int> pauses{0};  // calls of NotePause()
  uint8_t data[8] = {};

 private:
  const Guest guest_;
  std::atomic<bool> immediate_exit_{false};
};

VcpuExit Spin(FakeVcpu& vcpu) { return vcpu.SpinUntilSignal(); }

// A device that answers 0x5a once it is released.
class SlowDevice : public IoHandler {
 public:
  uint64_t Read(Waiter, uint64_t, uint8_t) override {
    if (!entered.HasBeenNotified()) entered.Notify();
    released.WaitForNotification();
    return 0x5a;
  }
  void Write(Waiter, uint64_t, uint8_t, uint64_t) override {}

  absl::Notification entered, released;
};

// Waits for its answer as RemoteDevice does, on a channel that can be cancelled.
class RemoteDeviceStandIn : public IoHandler {
 public:
  uint64_t Read(Waiter waiter, uint64_t, uint8_t) override {
    waiting.fetch_add(1);
    bool answered = false;
    while (!(answered = AwaitAnswer())) {
      before_park(waiter);
      if (!park(waiter)) break;
    }
    waiting.fetch_sub(1);
    (answered ? answers : given_up).fetch_add(1);
    return answered ? 0x5a : 0xff;
  }
  void Write(Waiter, uint64_t, uint8_t, uint64_t) override {}

  WaitControl waits() {
    return {.cancel = [this] { SetCancelled(true); }, .resume = [this] { SetCancelled(false); }};
  }
  void AnswerAll() {
    absl::MutexLock lock(&mutex_);
    answering_ = true;
  }

  std::function<bool(uint32_t)> park;
  std::function<void(uint32_t)> before_park = [](uint32_t) {};
  std::atomic<int> waiting{0};  // accesses in flight
  std::atomic<int> answers{0};
  std::atomic<int> given_up{0};

 private:
  bool AwaitAnswer() {
    absl::MutexLock lock(&mutex_);
    const auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return cancelled_ || answering_;
    };
    mutex_.Await(absl::Condition(&awake));
    return !cancelled_;
  }
  void SetCancelled(bool cancelled) {
    absl::MutexLock lock(&mutex_);
    cancelled_ = cancelled;
  }

  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool answering_ ABSL_GUARDED_BY(mutex_) = false;
};

VcpuExit ReadDevice(FakeVcpu& vcpu) {
  return MmioExit{.address = kDevice, .data = vcpu.data, .size_bytes = 1, .is_write = false};
}

class VcpuThreadsTest : public testing::Test {
 protected:
  VcpuThreadsTest() : end_(*VmEndLatch::Create()) {}

  FakeVcpu* Add(FakeVcpu::Guest guest) {
    auto vcpu = std::make_unique<FakeVcpu>(std::move(guest));
    FakeVcpu* const result = vcpu.get();
    vcpus_.push_back(std::move(vcpu));
    return result;
  }
  VcpuThreads& Start(WaitControl waits = {.cancel = [] {}, .resume = [] {}}) {
    threads_ =
        std::make_unique<VcpuThreads>(std::move(vcpus_), memory_, ports_, *end_, std::move(waits));
    EXPECT_TRUE(threads_->Start().ok());
    return *threads_;
  }
  // With vCPUs that all read `device`, without end.
  VcpuThreads& StartReading(RemoteDeviceStandIn& device, int vcpus);
  bool AwaitEnd() {
    const absl::Time deadline = absl::Now() + kLong;
    while (!end_->reported() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    return end_->reported();
  }

  AddressSpace memory_, ports_;
  std::unique_ptr<VmEndLatch> end_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::unique_ptr<VcpuThreads> threads_;  // last: it stops first
};

VcpuThreads& VcpuThreadsTest::StartReading(RemoteDeviceStandIn& device, int vcpus) {
  EXPECT_TRUE(memory_.Insert(kDevice, 0x1000, &device).ok());
  for (int i = 0; i < vcpus; ++i) Add(ReadDevice);
  device.park = [this](uint32_t vcpu) { return threads_->ParkWhilePaused(vcpu); };
  return Start(device.waits());
}

bool AwaitAtLeast(const std::atomic<int>& counter, int count) {
  const absl::Time deadline = absl::Now() + kLong;
  while (counter < count && absl::Now() < deadline) absl::SleepFor(absl::Microseconds(50));
  return counter >= count;
}

TEST_F(VcpuThreadsTest, StopGetsVcpusOutOfGuestCode) {
  for (int i = 0; i < 4; ++i) Add(Spin);
  VcpuThreads& threads = Start();
  EXPECT_TRUE(threads.Stop(kLong).ok());
  EXPECT_FALSE(end_->reported()) << "Stop() is not an end of the VM";
}

// No signal of this user can be queued.
class NoQueuedSignals {
 public:
  NoQueuedSignals() {
    getrlimit(RLIMIT_SIGPENDING, &before_);
    const rlimit none = {.rlim_cur = 0, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_SIGPENDING, &none);
  }
  ~NoQueuedSignals() { setrlimit(RLIMIT_SIGPENDING, &before_); }

 private:
  rlimit before_ = {};
};

TEST_F(VcpuThreadsTest, StopGetsVcpusOutOfGuestCodeWhereNoSignalCanBeQueued) {
  const NoQueuedSignals limit;
  for (int i = 0; i < 4; ++i) Add(Spin);
  VcpuThreads& threads = Start();
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, VcpuWhoseAccessEndsTheVmDoesNotRunAgain) {
  class PowerButton : public IoHandler {
   public:
    explicit PowerButton(VmEndLatch& end) : end_(end) {}
    uint64_t Read(Waiter, uint64_t, uint8_t) override { return 0; }
    void Write(Waiter, uint64_t, uint8_t, uint64_t) override {
      end_.Report({EndReason::kPowerOff, "off"});
    }

   private:
    VmEndLatch& end_;
  } button(*end_);
  ASSERT_TRUE(ports_.Insert(0x600, 1, &button).ok());
  FakeVcpu* const writer = Add([](FakeVcpu& vcpu) -> VcpuExit {
    return PortExit{
        .data = vcpu.data, .count = 1, .port = 0x600, .size_bytes = 1, .is_write = true};
  });
  Add(Spin);
  VcpuThreads& threads = Start();
  ASSERT_TRUE(AwaitEnd());
  EXPECT_TRUE(threads.Pause(kLong).ok());
  EXPECT_EQ(writer->runs, 1);
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, CrashIsReportedWithTheVcpuAndItsRegisters) {
  Add(Spin);
  Add([](FakeVcpu&) -> VcpuExit { return ShutdownExit{}; });
  VcpuThreads& threads = Start();
  ASSERT_TRUE(AwaitEnd());
  EXPECT_EQ(end_->end().reason, EndReason::kTripleFault);
  EXPECT_EQ(end_->end().message, "vCPU 1: triple fault: rip=0x1234");
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, PausedVcpusRunNothingUntilResumed) {
  std::vector<FakeVcpu*> vcpus;
  for (int i = 0; i < 3; ++i) {
    vcpus.push_back(Add([](FakeVcpu& vcpu) -> VcpuExit {
      return PortExit{
          .data = vcpu.data, .count = 1, .port = 0x80, .size_bytes = 1, .is_write = true};
    }));
  }
  VcpuThreads& threads = Start();
  for (int round = 0; round < 100; ++round) {
    ASSERT_TRUE(threads.Pause(kLong).ok());
    std::vector<int> runs;
    for (FakeVcpu* vcpu : vcpus) runs.push_back(vcpu->runs);
    absl::SleepFor(absl::Microseconds(200));
    for (size_t i = 0; i < vcpus.size(); ++i) EXPECT_EQ(vcpus[i]->runs, runs[i]);
    threads.Resume();
    for (size_t i = 0; i < vcpus.size(); ++i) {
      while (vcpus[i]->runs == runs[i]) absl::SleepFor(absl::Microseconds(50));
    }
  }
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, PauseWaitsUntilTheGuestHasTheResultOfItsAccess) {
  SlowDevice device;
  ASSERT_TRUE(memory_.Insert(kDevice, 0x1000, &device).ok());
  FakeVcpu* const vcpu = Add([](FakeVcpu& self) -> VcpuExit {
    return MmioExit{.address = kDevice, .data = self.data, .size_bytes = 1, .is_write = false};
  });
  VcpuThreads& threads = Start();
  device.entered.WaitForNotification();

  const absl::Status stuck = threads.Pause(absl::Milliseconds(30));
  EXPECT_EQ(stuck.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(stuck.message(), "vCPU 0 did not pause within 30ms");

  device.released.Notify();
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_EQ(vcpu->data[0], 0x5a);
  EXPECT_GE(vcpu->runs, 2) << "the run that takes the result";
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, StopCancelsTheAccessThatAVcpuWaitsIn) {
  SlowDevice device;
  ASSERT_TRUE(memory_.Insert(kDevice, 0x1000, &device).ok());
  Add([](FakeVcpu& self) -> VcpuExit {
    return MmioExit{.address = kDevice, .data = self.data, .size_bytes = 1, .is_write = false};
  });
  int cancellations = 0;
  VcpuThreads& threads = Start({.cancel =
                                    [&] {
                                      ++cancellations;
                                      device.released.Notify();
                                    },
                                .resume = [] {}});
  device.entered.WaitForNotification();
  EXPECT_TRUE(threads.Stop(kLong).ok());
  threads_.reset();
  EXPECT_EQ(cancellations, 1) << "the destructor finds nothing left to cancel";
}

TEST_F(VcpuThreadsTest, StopNamesAVcpuThatDoesNotReturnAndMayBeRepeated) {
  SlowDevice device;
  ASSERT_TRUE(memory_.Insert(kDevice, 0x1000, &device).ok());
  Add([](FakeVcpu& self) -> VcpuExit {
    return MmioExit{.address = kDevice, .data = self.data, .size_bytes = 1, .is_write = false};
  });
  Add(Spin);
  VcpuThreads& threads = Start();
  device.entered.WaitForNotification();
  EXPECT_EQ(threads.Stop(absl::Milliseconds(30)).message(), "vCPU 0 did not stop within 30ms");
  device.released.Notify();
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, PausedVcpusCanBeStopped) {
  Add(Spin);
  VcpuThreads& threads = Start();
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, PauseDoesNotWaitForADeviceThatDoesNotAnswer) {
  RemoteDeviceStandIn device;
  FakeVcpu* const spinning = Add(Spin);
  VcpuThreads& threads = StartReading(device, 2);
  ASSERT_TRUE(AwaitAtLeast(device.waiting, 2));
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_EQ(device.waiting, 2) << "parked in the access";

  // An answer during the pause must not resume the vCPUs.
  device.AnswerAll();
  const int runs = spinning->runs;
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(device.waiting, 2);
  EXPECT_EQ(spinning->runs, runs);

  EXPECT_EQ(device.answers, 0);
  threads.Resume();
  EXPECT_TRUE(AwaitAtLeast(device.answers, 3));
  EXPECT_EQ(device.given_up, 0);
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, AParkedAccessGivesTheGuestItsAnswerAfterTheResume) {
  RemoteDeviceStandIn device;
  ASSERT_TRUE(memory_.Insert(kDevice, 0x1000, &device).ok());
  absl::Notification has_result;
  FakeVcpu* const vcpu = Add([&](FakeVcpu& self) -> VcpuExit {
    if (self.data[0] == 0) return ReadDevice(self);
    if (!has_result.HasBeenNotified()) has_result.Notify();
    return self.SpinUntilSignal();
  });
  device.park = [this](uint32_t index) { return threads_->ParkWhilePaused(index); };
  VcpuThreads& threads = Start(device.waits());
  ASSERT_TRUE(AwaitAtLeast(device.waiting, 1));
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_EQ(vcpu->pauses, 0);
  threads.Resume();
  EXPECT_EQ(device.waiting, 1) << "as before the pause";
  device.AnswerAll();
  ASSERT_TRUE(has_result.WaitForNotificationWithTimeout(kLong));
  EXPECT_EQ(vcpu->data[0], 0x5a);
  EXPECT_EQ(vcpu->pauses, 1);
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, StopReleasesAParkedVcpu) {
  RemoteDeviceStandIn device;
  VcpuThreads& threads = StartReading(device, 3);
  ASSERT_TRUE(AwaitAtLeast(device.waiting, 3));
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_TRUE(threads.Stop(kLong).ok());
  EXPECT_EQ(device.waiting, 0);
  EXPECT_EQ(device.given_up, 3);
}

// Any time may pass between the cancellation of a vCPU's access and its parking. The pause may be
// over by then.
TEST_F(VcpuThreadsTest, AVcpuThatIsResumedBeforeItParksContinues) {
  RemoteDeviceStandIn device;
  absl::Notification before_parking, may_park;
  device.before_park = [&](uint32_t) {
    if (before_parking.HasBeenNotified()) return;
    before_parking.Notify();
    may_park.WaitForNotification();
  };
  VcpuThreads& threads = StartReading(device, 1);
  ASSERT_TRUE(AwaitAtLeast(device.waiting, 1));
  EXPECT_EQ(threads.Pause(absl::Milliseconds(30)).code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(before_parking.WaitForNotificationWithTimeout(kLong));
  may_park.Notify();
  // It waits for its answer again, and can be paused again.
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_EQ(device.waiting, 1);
  threads.Resume();
  device.AnswerAll();
  EXPECT_TRUE(AwaitAtLeast(device.answers, 1));
  EXPECT_EQ(device.given_up, 0);
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, AParkedVcpuStaysParkedIfPausedAgainBeforeItWakesUp) {
  RemoteDeviceStandIn device;
  VcpuThreads& threads = StartReading(device, 4);
  ASSERT_TRUE(AwaitAtLeast(device.waiting, 4));
  for (int round = 0; round < 300; ++round) {
    ASSERT_TRUE(threads.Pause(kLong).ok()) << round;
    EXPECT_EQ(device.waiting, 4);
    threads.Resume();
  }
  ASSERT_TRUE(threads.Pause(kLong).ok());
  device.AnswerAll();
  absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(device.waiting, 4) << "a vCPU continued while the VM is paused";
  EXPECT_TRUE(threads.Stop(kLong).ok());
  EXPECT_EQ(device.given_up, 4);
}

// Pauses come at any point of an access: while it is answered, waits, parks or continues.
TEST_F(VcpuThreadsTest, PausesWhileADeviceAnswersLoseNoAccess) {
  RemoteDeviceStandIn device;
  VcpuThreads& threads = StartReading(device, 3);
  device.AnswerAll();
  for (int round = 0; round < 200; ++round) {
    ASSERT_TRUE(threads.Pause(kLong).ok()) << round;
    const int answers = device.answers;
    absl::SleepFor(absl::Microseconds(20));
    EXPECT_EQ(device.answers, answers);
    EXPECT_EQ(device.given_up, 0);
    threads.Resume();
  }
  EXPECT_TRUE(threads.Stop(kLong).ok());
  EXPECT_LE(device.given_up, 3) << "only what Stop() ended";
}

// As when a VM reboots while a pause is requested.
TEST_F(VcpuThreadsTest, VcpusThatArePausedBeforeTheyStartRunNothing) {
  FakeVcpu* const vcpu = Add(Spin);
  threads_ = std::make_unique<VcpuThreads>(std::move(vcpus_), memory_, ports_, *end_,
                                           WaitControl{.cancel = [] {}, .resume = [] {}});
  ASSERT_TRUE(threads_->Pause(kLong).ok());
  ASSERT_TRUE(threads_->Start().ok());
  ASSERT_TRUE(threads_->Pause(kLong).ok());  // now the thread has started, and waits
  EXPECT_EQ(vcpu->runs, 0);
  threads_->Resume();
  EXPECT_TRUE(AwaitAtLeast(vcpu->runs, 1));
  EXPECT_TRUE(threads_->Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, AWaiterThatIsNotAVcpuDoesNotPark) {
  Add(Spin);
  VcpuThreads& threads = Start();
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_FALSE(threads.ParkWhilePaused(1));
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, AVcpuIsNotifiedOfEachPauseOnce) {
  FakeVcpu* const vcpu = Add(Spin);
  VcpuThreads& threads = Start();
  for (int round = 1; round <= 3; ++round) {
    ASSERT_TRUE(threads.Pause(kLong).ok());
    EXPECT_EQ(vcpu->pauses, round - 1);
    threads.Resume();
    EXPECT_TRUE(AwaitAtLeast(vcpu->pauses, round));
    EXPECT_EQ(vcpu->pauses, round);
  }
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, AHoldLeavesAccessesWaitingAndTheirVcpusOutsideTheGuest) {
  SlowDevice device;
  ASSERT_TRUE(memory_.Insert(kDevice, 0x1000, &device).ok());
  FakeVcpu* const spinning = Add(Spin);
  FakeVcpu* const reading = Add([](FakeVcpu& vcpu) -> VcpuExit {
    return MmioExit{.address = kDevice, .data = vcpu.data, .size_bytes = 1, .is_write = false};
  });
  VcpuThreads& threads = Start();
  device.entered.WaitForNotification();
  ASSERT_TRUE(threads.Hold(kLong).ok());
  const int runs = spinning->runs;
  EXPECT_EQ(reading->runs, 1);
  device.released.Notify();
  // The vCPU takes the answer and finds the request at the next entry.
  ASSERT_TRUE(AwaitAtLeast(reading->runs, 2));
  ASSERT_TRUE(threads.Pause(kLong).ok());
  EXPECT_EQ(reading->runs, 2);
  EXPECT_EQ(reading->data[0], 0x5a);
  EXPECT_LE(spinning->runs, runs + 1);
  threads.Resume();
  EXPECT_TRUE(AwaitAtLeast(reading->runs, 3));
  EXPECT_TRUE(AwaitAtLeast(spinning->pauses, 1));
  EXPECT_EQ(reading->pauses, 1) << "a hold must notify the guest's watchdog, too";
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, HoldsAtAnyPointStopAllGuestCode) {
  std::atomic<int> steps{0};
  for (int i = 0; i < 3; ++i) {
    Add([&](FakeVcpu&) -> VcpuExit {
      ++steps;
      return MmioExit{.address = kDevice, .data = nullptr, .size_bytes = 0, .is_write = false};
    });
  }
  VcpuThreads& threads = Start();
  for (int round = 0; round < 300; ++round) {
    ASSERT_TRUE(threads.Hold(kLong).ok()) << round;
    const int before = steps;
    absl::SleepFor(absl::Microseconds(20));
    EXPECT_EQ(steps, before);
    threads.Resume();
  }
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

TEST_F(VcpuThreadsTest, ThreadsBlockSignalsOfTheProcess) {
  std::atomic<bool> term_blocked{false}, kick_blocked{true};
  Add([&](FakeVcpu& vcpu) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    term_blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGCHLD) == 1;
    kick_blocked = sigismember(&mask, SIGUSR1) == 1;
    return vcpu.SpinUntilSignal();
  });
  VcpuThreads& threads = Start();
  while (!term_blocked) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(threads.Stop(kLong).ok());
  EXPECT_FALSE(kick_blocked);
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_EQ(sigismember(&mask, SIGTERM), 0) << "the caller's mask is as before";
}

// A request may come between any two steps of the loop.
TEST_F(VcpuThreadsTest, NoRequestIsLost) {
  for (int i = 0; i < 4; ++i) Add(Spin);
  VcpuThreads& threads = Start();
  for (int round = 0; round < 500; ++round) {
    ASSERT_TRUE(threads.Pause(kLong).ok());
    threads.Resume();
  }
  EXPECT_TRUE(threads.Stop(kLong).ok());
}

}  // namespace
}  // namespace bulkhead::vmm
