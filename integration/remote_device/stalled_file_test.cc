// A device whose file lies on a file system that does not answer: its supervisor hears all the
// same.
#include <fcntl.h>
#include <signal.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "devices/virtio_blk/testing/slow_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/host_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

class StalledFileTest : public SupervisedTest {
 protected:
  // One server for all tests: its mount namespace is the process's.
  static void SetUpTestSuite() {
    slow_ = SlowFile::Create(testing::TempDir() + "/stalled", 1 << 20).value().release();
  }
  ~StalledFileTest() override {
    slow_->set_opens_stall(false);
    slow_->set_closes_stall(false);
  }

  std::unique_ptr<DeviceSupervisor> Device() {
    DeviceSpec spec = Spec("");
    spec.resources[0].file = HostFile::Open(slow_->path(), {}).value();
    spec.restart = {.min_backoff = absl::Milliseconds(1), .max_crashes = 5};
    return Supervise(std::move(spec)).value();
  }

  static SlowFile* slow_;
};

SlowFile* StalledFileTest::slow_ = nullptr;

TEST_F(StalledFileTest, AFileThatDoesNotOpenHoldsUpNoCommand) {
  const auto device = Device();
  slow_->set_opens_stall(true);
  // The next process gets what was opened ahead.
  pid_t old = device->Describe().pid();
  ASSERT_EQ(kill(old, SIGKILL), 0);
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  old = device->Describe().pid();
  ASSERT_EQ(kill(old, SIGKILL), 0);
  EXPECT_TRUE(WaitUntil([&] {
    return device->Describe().state_reason().find("its file system does not answer") !=
           std::string::npos;
  })) << device->Describe().state_reason();
  EXPECT_TRUE(StopDevice(*device).ok());
  EXPECT_TRUE(WaitForState(*device, v1::Device::STOPPED));
  EXPECT_THAT(std::string(StartDevice(*device).message()),
              HasSubstr("its file system does not answer"));
  slow_->set_opens_stall(false);
  EXPECT_TRUE(WaitUntil([&] { return StartDevice(*device).ok(); }));
  EXPECT_EQ(device->Describe().state(), v1::Device::RUNNING);
}

TEST_F(StalledFileTest, ADeviceWhoseFileDoesNotOpenServesOnceItDoes) {
  const auto device = Device();
  slow_->set_opens_stall(true);
  for (int i = 0; i < 2; ++i) {
    const pid_t old = device->Describe().pid();
    ASSERT_EQ(kill(old, SIGKILL), 0);
    if (i == 0) {
      ASSERT_TRUE(WaitForSuccessor(*device, old));
    }
  }
  ASSERT_TRUE(WaitForState(*device, v1::Device::RESTARTING));
  absl::SleepFor(absl::Seconds(3));  // more tries than max_crashes
  EXPECT_EQ(device->Describe().state(), v1::Device::RESTARTING);
  slow_->set_opens_stall(false);
  EXPECT_TRUE(WaitForState(*device, v1::Device::RUNNING));
}

TEST_F(StalledFileTest, AFileThatDoesNotCloseHoldsUpNoOtherDevice) {
  const auto device = Device();
  const std::unique_ptr<DeviceSupervisor> other = Supervise(Spec("")).value();
  slow_->set_closes_stall(true);
  // Its process cannot end.
  const pid_t old = device->Describe().pid();
  ASSERT_EQ(kill(old, SIGKILL), 0);
  for (int i = 0; i < 3; ++i) {
    const pid_t before = other->Describe().pid();
    ASSERT_EQ(kill(before, SIGKILL), 0);
    EXPECT_TRUE(WaitForSuccessor(*other, before));
  }
  EXPECT_EQ(device->Describe().generation(), 1u);
  slow_->set_closes_stall(false);
  EXPECT_TRUE(WaitForSuccessor(*device, old));
}

}  // namespace
}  // namespace bulkhead::vmm
