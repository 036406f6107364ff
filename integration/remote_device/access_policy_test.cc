// What the guest meets while a device is away, by the access policy.
#include <signal.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervisor_fixture.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

TEST_F(SupervisorTest, WithThePolicyAllOnesNobodyWaitsForADeviceThatIsAway) {
  DeviceSpec spec = Spec("");
  spec.access_policy = AccessPolicy::kAllOnes;
  const auto device = Device(std::move(spec));
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), kAllOnes); });
  kill(old, SIGKILL);
  vcpu.join();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RESTARTING));
  EXPECT_EQ(Read(*device), kAllOnes);
  device->device().WriteAndWait(0, 0, kRegister, 8, 43);
  EXPECT_EQ(device->device().dropped_accesses(), 3u);
  shortage.reset();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(Read(*device), 42u);
}

// A VM of one vCPU, as far as pausing goes.
class PausableVm {
 public:
  void Install(SupervisorOptions& options, const std::function<RemoteDevice*()>& device) {
    options.park = [this](Waiter) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&running_));
      return true;
    };
    options.pause_vm = [this, device](absl::string_view) {
      {
        absl::MutexLock lock(&mutex_);
        running_ = false;
        ++pauses_;
      }
      device()->CancelAccesses();
    };
    options.resume_vm = [this, device](absl::string_view) {
      device()->ResumeAccesses();
      absl::MutexLock lock(&mutex_);
      running_ = true;
    };
  }
  bool running() const {
    absl::MutexLock lock(&mutex_);
    return running_;
  }
  int pauses() const {
    absl::MutexLock lock(&mutex_);
    return pauses_;
  }

 private:
  mutable absl::Mutex mutex_;
  bool running_ ABSL_GUARDED_BY(mutex_) = true;
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0;
};

class PauseVmTest : public SupervisorTest {
 protected:
  std::unique_ptr<DeviceSupervisor> PausingDevice(DeviceSpec spec) {
    spec.access_policy = AccessPolicy::kPauseVm;
    SupervisorOptions options = Options();
    vm_.Install(options, [this] { return remote_.load(); });
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
        DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
    EXPECT_TRUE(device.ok()) << device.status();
    remote_ = &(*device)->device();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    return *std::move(device);
  }

  PausableVm vm_;
  std::atomic<RemoteDevice*> remote_{nullptr};
};

TEST_F(PauseVmTest, TheVmIsPausedUntilTheDeviceIsBackAndTheAccessGoesOn) {
  const auto device = PausingDevice(Spec(""));
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), 42u); });
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return !vm_.running(); }));
  shortage.reset();
  vcpu.join();
  EXPECT_TRUE(vm_.running());
  EXPECT_EQ(vm_.pauses(), 1);
  EXPECT_EQ(device->device().dropped_accesses(), 0u);
}

TEST_F(PauseVmTest, ADeviceThatHasFailedKeepsTheVmPausedUntilSomebodyRestartsIt) {
  DeviceSpec spec = Spec("");
  spec.restart.policy = RestartSpec::Policy::kNever;
  const auto device = PausingDevice(std::move(spec));
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), 42u); });
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  EXPECT_FALSE(vm_.running());
  ASSERT_TRUE(Restart(*device).ok());
  vcpu.join();
  EXPECT_TRUE(vm_.running());
}

TEST_F(PauseVmTest, AStoppedDeviceLetsTheVmGoOn) {
  DeviceSpec spec = Spec("");
  spec.restart.policy = RestartSpec::Policy::kNever;
  const auto device = PausingDevice(std::move(spec));
  kill(Pid(*device), SIGKILL);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  ASSERT_TRUE(StopDevice(*device).ok());
  EXPECT_TRUE(vm_.running());
  EXPECT_EQ(Read(*device), kAllOnes);
}

}  // namespace
}  // namespace bulkhead::vmm
