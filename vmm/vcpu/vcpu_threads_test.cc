#include "vmm/vcpu/vcpu_threads.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vcpu/vm_end.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);
constexpr uint64_t kDevice = 0xc0000000;

// A vCPU whose guest is a function: called for each Run() that is not interrupted. Keeps to the
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
  void RequestInterrupt() override { immediate_exit_.store(true); }
  void ClearInterrupt() override { immediate_exit_.store(false); }
  std::string DescribeState() override { return "rip=0x1234"; }

  // Guest code that never exits: only a signal ends it, also one that comes just before.
  VcpuExit SpinUntilSignal() {
    sigset_t kick, before;
    sigemptyset(&kick);
    sigaddset(&kick, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &kick, &before);
    if (!immediate_exit_.load()) sigsuspend(&before);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return InterruptedExit{};
  }

  std::atomic<int> runs{0};
  uint8_t data[8] = {};

 private:
  const Guest guest_;
  std::atomic<bool> immediate_exit_{false};
};

VcpuExit Spin(FakeVcpu& vcpu) { return vcpu.SpinUntilSignal(); }

// A device that answers 0x5a once it is released.
class SlowDevice : public IoHandler {
 public:
  uint64_t Read(Requester, uint64_t, uint8_t) override {
    if (!entered.HasBeenNotified()) entered.Notify();
    released.WaitForNotification();
    return 0x5a;
  }
  void Write(Requester, uint64_t, uint8_t, uint64_t) override {}

  absl::Notification entered, released;
};

class VcpuThreadsTest : public testing::Test {
 protected:
  VcpuThreadsTest() : end_(*VmEndLatch::Create()) {}

  FakeVcpu* Add(FakeVcpu::Guest guest) {
    auto vcpu = std::make_unique<FakeVcpu>(std::move(guest));
    FakeVcpu* const result = vcpu.get();
    vcpus_.push_back(std::move(vcpu));
    return result;
  }
  VcpuThreads& Start(std::function<void()> cancel = [] {}) {
    threads_ =
        std::make_unique<VcpuThreads>(std::move(vcpus_), memory_, ports_, *end_, std::move(cancel));
    EXPECT_TRUE(threads_->Start().ok());
    return *threads_;
  }
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

TEST_F(VcpuThreadsTest, StopGetsVcpusOutOfGuestCode) {
  for (int i = 0; i < 4; ++i) Add(Spin);
  VcpuThreads& threads = Start();
  EXPECT_TRUE(threads.Stop(kLong).ok());
  EXPECT_FALSE(end_->reported()) << "being stopped is no end of the VM's own";
}

TEST_F(VcpuThreadsTest, VcpuWhoseAccessEndsTheVmRunsNoMore) {
  class PowerButton : public IoHandler {
   public:
    explicit PowerButton(VmEndLatch& end) : end_(end) {}
    uint64_t Read(Requester, uint64_t, uint8_t) override { return 0; }
    void Write(Requester, uint64_t, uint8_t, uint64_t) override {
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
  VcpuThreads& threads = Start([&] {
    ++cancellations;
    device.released.Notify();
  });
  device.entered.WaitForNotification();
  EXPECT_TRUE(threads.Stop(kLong).ok());
  threads_.reset();
  EXPECT_EQ(cancellations, 1) << "the destructor finds nothing left to cancel";
}

TEST_F(VcpuThreadsTest, StopNamesAVcpuThatDoesNotComeBackAndMayBeRepeated) {
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

TEST_F(VcpuThreadsTest, ThreadsTakeNoSignalsMeantForTheProcess) {
  std::atomic<bool> term_blocked{false}, kick_blocked{true};
  Add([&](FakeVcpu& vcpu) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    term_blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGCHLD) == 1;
    kick_blocked = sigismember(&mask, SIGRTMIN) == 1;
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

// Requests fall between any two steps of the loop; none may get lost.
TEST_F(VcpuThreadsTest, NoRequestIsLostHoweverItFalls) {
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
