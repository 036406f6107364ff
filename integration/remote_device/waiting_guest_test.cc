// What a supervisor does while the guest waits for its device: accesses that are never answered,
// and waits that are reported to the rest of the vmm.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;

constexpr uint64_t kRegister = 0;
constexpr HeartbeatSpec kNoHeartbeats = {.interval = absl::ZeroDuration()};

class WaitingGuestTest : public SupervisedTest {
 protected:
  // A device whose register holds 42.
  std::unique_ptr<DeviceSupervisor> Device(DeviceSpec spec,
                                           absl::Duration start_timeout = absl::Seconds(10)) {
    SupervisorOptions options = Options();
    options.start_timeout = start_timeout;
    options.hold_vm = [this](absl::string_view, bool hold) {
      absl::MutexLock lock(&holds_mutex_);
      holds_ += hold ? 1 : -1;
      ever_held_ |= hold;
    };
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
        DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
    EXPECT_TRUE(device.ok()) << device.status();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    return *std::move(device);
  }
  int holds() {
    absl::MutexLock lock(&holds_mutex_);
    return holds_;
  }
  bool ever_held() {
    absl::MutexLock lock(&holds_mutex_);
    return ever_held_;
  }
  static uint64_t Read(DeviceSupervisor& device, uint64_t offset) {
    return device.device().Read(1, 0, offset, 8);
  }
  // Nothing but an unanswered access shows that the device hangs.
  DeviceSpec Stalling(const std::string& misbehaviour) {
    DeviceSpec spec = Spec(misbehaviour);
    spec.access_timeout = absl::Minutes(5);
    spec.heartbeat = {.interval = absl::Milliseconds(100),
                      .misses = 1000,
                      .stall_timeout = absl::Milliseconds(500)};
    return spec;
  }

 private:
  absl::Mutex holds_mutex_;
  int holds_ ABSL_GUARDED_BY(holds_mutex_) = 0;
  bool ever_held_ ABSL_GUARDED_BY(holds_mutex_) = false;
};

TEST_F(WaitingGuestTest, AnAccessThatIsLostWhileHeartbeatsAreAnsweredIsAnsweredByASuccessor) {
  const auto device = Device(Stalling("lose_answers"));
  const pid_t old = device->Describe().pid();
  device->device().WriteAndWait(0, 0, regs::kTrigger, 8, 1);
  EXPECT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(device->device().timed_out_accesses(), 0u);
  EXPECT_EQ(Read(*device, kRegister), 42u);
  EXPECT_EQ(Read(*device, regs::kWriteCount), 2u) << "it took effect once";
}

TEST_F(WaitingGuestTest, AnImpossibleHeadIsFoundThoughNobodyWaitsForRoom) {
  DeviceSpec spec = Stalling("lose_answers_forge_head");
  spec.heartbeat.stall_timeout = absl::ZeroDuration();
  const auto device = Device(std::move(spec));
  const pid_t old = device->Describe().pid();
  device->device().WriteAndWait(0, 0, regs::kTrigger, 8, 1);
  EXPECT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Read(*device, kRegister), 42u);
}

TEST_F(WaitingGuestTest, ADeviceThatServesAndOwesNothingIsNotReplaced) {
  const auto device = Device(Stalling(""));
  const pid_t old = device->Describe().pid();
  const absl::Time end = absl::Now() + absl::Seconds(2);
  while (absl::Now() < end) Read(*device, kRegister);
  EXPECT_EQ(device->Describe().pid(), old);
}

TEST_F(WaitingGuestTest, ADeviceThatWorksForLongInOneAccessIsNotReplaced) {
  const auto device = Device(Stalling("work_long"));
  const pid_t old = device->Describe().pid();
  device->device().WriteAndWait(0, 0, regs::kTrigger, 8, 43);
  EXPECT_EQ(Read(*device, kRegister), 43u);
  EXPECT_EQ(device->Describe().pid(), old);
}

TEST_F(WaitingGuestTest, ADeviceThatWorksForLongerThanAnAccessMayWaitIsReplaced) {
  DeviceSpec spec = Stalling("work_for_ever");
  spec.access_timeout = absl::Seconds(1);
  const auto device = Device(std::move(spec));
  const pid_t old = device->Describe().pid();
  device->device().WriteAndWait(0, 0, regs::kTrigger, 8, 43);
  EXPECT_TRUE(WaitForSuccessor(*device, old));
}

TEST_F(WaitingGuestTest, AnAccessThatWaitsForASecondHoldsTheVmUntilItIsAnswered) {
  DeviceSpec spec = Spec("");
  spec.heartbeat = kNoHeartbeats;
  const auto device = Device(std::move(spec));
  const pid_t process = device->Describe().pid();
  EXPECT_EQ(Read(*device, kRegister), 42u);
  ASSERT_EQ(kill(process, SIGSTOP), 0);
  uint64_t value = 0;
  std::thread vcpu([&] { value = Read(*device, kRegister); });
  EXPECT_TRUE(WaitUntil([&] { return holds() == 1; }));
  ASSERT_EQ(kill(process, SIGCONT), 0);
  vcpu.join();
  EXPECT_EQ(value, 42u);
  EXPECT_EQ(holds(), 0);
}

TEST_F(WaitingGuestTest, ADeviceThatTheGuestUsesHoldsTheVmWhileItIsAway) {
  DeviceSpec spec = Spec("");
  spec.restart.min_backoff = spec.restart.max_backoff = absl::Seconds(4);
  spec.restart.max_crashes = -1;
  const auto device = Device(std::move(spec));
  device->device().SetFunctionState(0, {.bus_master = true});
  // The first restart is at once, the second waits.
  for (int i = 0; i < 2; ++i) {
    const pid_t old = device->Describe().pid();
    ASSERT_EQ(kill(old, SIGKILL), 0);
    if (i == 0) {
      ASSERT_TRUE(WaitForSuccessor(*device, old));
    }
  }
  EXPECT_TRUE(WaitUntil([&] { return holds() == 1; }));
  EXPECT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_TRUE(WaitUntil([&] { return holds() == 0; }));
}

TEST_F(WaitingGuestTest, TheVmIsHeldInTimeAlthoughTheSuccessorHangsAtItsStart) {
  const std::string honest = WriteTempFile("honest", "yes");
  DeviceSpec spec = Spec("");
  spec.binary = Program(ProgramThatNeeds(honest));
  spec.access_timeout = absl::Minutes(5);
  const auto device = Device(std::move(spec), /*start_timeout=*/2 * kTestTimeout);
  device->device().SetFunctionState(0, {.bus_master = true});
  unlink(honest.c_str());
  ASSERT_EQ(kill(device->Describe().pid(), SIGKILL), 0);
  EXPECT_TRUE(WaitUntil([&] { return holds() == 1; }));
  ASSERT_TRUE(Restart(*device, DeviceBinary()).ok());
  EXPECT_TRUE(WaitUntil([&] { return holds() == 0; }));
}

TEST_F(WaitingGuestTest, ADeviceThatTheGuestDoesNotUseHoldsNothing) {
  DeviceSpec spec = Spec("");
  spec.restart.min_backoff = spec.restart.max_backoff = absl::Seconds(3);
  spec.restart.max_crashes = -1;
  const auto device = Device(std::move(spec));
  for (int i = 0; i < 2; ++i) {
    const pid_t old = device->Describe().pid();
    ASSERT_EQ(kill(old, SIGKILL), 0);
    ASSERT_TRUE(WaitForSuccessor(*device, old));
  }
  EXPECT_FALSE(ever_held());
}

}  // namespace
}  // namespace bulkhead::vmm
