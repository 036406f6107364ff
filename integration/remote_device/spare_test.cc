// Spares: processes that wait to be successors.
#include <signal.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervisor_fixture.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

class SpareTest : public SupervisorTest {
 protected:
  std::unique_ptr<DeviceSupervisor> DeviceWithSpare() {
    DeviceSpec spec = Spec("");
    spec.spare = true;
    auto device = Device(std::move(spec));
    EXPECT_TRUE(WaitForSpare(*device));
    return device;
  }
  bool WaitForSpare(const DeviceSupervisor& device) {
    return WaitUntil([&] { return device.Describe().has_spare(); });
  }
  static pid_t SparePid(const DeviceSupervisor& device) {
    for (const pid_t child : Children()) {
      if (child != Pid(device)) return child;
    }
    return kNoProcess;
  }
};

TEST_F(SpareTest, IsTheSuccessorOfAProcessThatDiesAndGetsASuccessorItself) {
  const auto device = DeviceWithSpare();
  for (int i = 0; i < 3; ++i) {
    const pid_t spare = SparePid(*device);
    const pid_t old = Pid(*device);
    kill(old, SIGKILL);
    ASSERT_TRUE(WaitForSuccessor(*device, old));
    EXPECT_EQ(Pid(*device), spare);
    EXPECT_EQ(Read(*device), 42u);
    ASSERT_TRUE(WaitForSpare(*device));
  }
}

TEST_F(SpareTest, ThatDiesIsReplacedAndTheDeviceDoesNotNotice) {
  const auto device = DeviceWithSpare();
  const pid_t pid = Pid(*device);
  const pid_t spare = SparePid(*device);
  kill(spare, SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return !device->Describe().has_spare(); }));
  ASSERT_TRUE(WaitForSpare(*device));
  EXPECT_NE(SparePid(*device), spare);
  EXPECT_EQ(Pid(*device), pid);
  EXPECT_EQ(States(), "RUNNING");
}

TEST_F(SpareTest, ThatDiesTogetherWithTheProcessIsNoLoss) {
  const auto device = DeviceWithSpare();
  const pid_t old = Pid(*device);
  kill(SparePid(*device), SIGKILL);
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SpareTest, ThatHangsIsNotWaitedForWhenItIsNeeded) {
  DeviceSpec spec = Spec("");
  spec.spare = true;
  spec.restart.max_crashes = 2;  // the process that dies is one: the spare is none
  SupervisorOptions options = Options();
  options.start_timeout = absl::Seconds(100);
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
      DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
  ASSERT_TRUE(WaitForSpare(**device));
  const pid_t old = Pid(**device);
  const pid_t spare = SparePid(**device);
  kill(spare, SIGSTOP);
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForSuccessor(**device, old));  // within kTestTimeout
  EXPECT_NE(Pid(**device), spare);
  EXPECT_EQ(Read(**device), 42u);
  EXPECT_TRUE(WaitUntil([&] { return !Children().count(spare); }));
}

TEST_F(SpareTest, ThatHangsIsNoticedAndReplaced) {
  const auto device = DeviceWithSpare();
  const pid_t spare = SparePid(*device);
  kill(spare, SIGSTOP);
  ASSERT_TRUE(WaitUntil([&] { return !Children().count(spare); }));
  ASSERT_TRUE(WaitForSpare(*device));
  EXPECT_EQ(States(), "RUNNING");
}

TEST_F(SpareTest, IsNotUsedForACommandedRestartAndFollowsItsBinary) {
  const auto device = DeviceWithSpare();
  const pid_t spare = SparePid(*device);
  const std::string binary = BinaryThat("");
  ASSERT_TRUE(Restart(*device, binary).ok());
  EXPECT_NE(Pid(*device), spare);
  ASSERT_TRUE(WaitForSpare(*device));
  const pid_t next = SparePid(*device);
  EXPECT_NE(next, spare);
  EXPECT_THAT(ReadFile(absl::StrCat("/proc/", next, "/cmdline")), HasSubstr(binary));
}

}  // namespace
}  // namespace bulkhead::vmm
