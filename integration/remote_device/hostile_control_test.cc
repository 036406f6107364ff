// Device processes that flood their control connection and read nothing, and serve all the while:
// their supervisor continues, even if gRPC cannot cope with that.
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/control_client.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;

constexpr uint64_t kRegister = 0;
constexpr absl::Duration kNever = absl::ZeroDuration();

class HostileControlTest : public SupervisedTest, public testing::WithParamInterface<const char*> {
 protected:
  // A device that floods, and whose register holds 42.
  std::unique_ptr<DeviceSupervisor> FloodingDevice(absl::Duration heartbeat) {
    DeviceSpec spec = Spec(GetParam());
    spec.heartbeat = {.interval = heartbeat, .misses = 3};
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device = Supervise(std::move(spec));
    EXPECT_TRUE(device.ok()) << device.status();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    (*device)->device().Read(0, 0, regs::kTrigger, 8);
    return *std::move(device);
  }
  static uint64_t Register(DeviceSupervisor& device) {
    return device.device().Read(1, 0, kRegister, 8);
  }
};

TEST_P(HostileControlTest, TheProcessIsReplacedOnceItIsAskedForItsMetrics) {
  const auto device = FloodingDevice(kNever);
  const pid_t old = device->Describe().pid();
  EXPECT_EQ(Register(*device), 42u);
  device->RefreshMetrics([] {});
  EXPECT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Register(*device), 42u);
}

TEST_P(HostileControlTest, CommandsAreCarriedOut) {
  const auto device = FloodingDevice(kNever);
  const pid_t old = device->Describe().pid();
  absl::Status reset = absl::UnknownError("");
  absl::Notification reset_done;
  device->ResetForReboot([&](absl::Status status) {
    reset = std::move(status);
    reset_done.Notify();
  });
  ASSERT_TRUE(reset_done.WaitForNotificationWithTimeout(kTestTimeout));
  EXPECT_TRUE(reset.ok()) << reset;
  EXPECT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Register(*device), 0u);
}

TEST_P(HostileControlTest, ARestartIsCarriedOut) {
  const auto device = FloodingDevice(kNever);
  absl::Status restart = absl::UnknownError("");
  absl::Notification done;
  device->Restart("", /*discard_state=*/false, [&](absl::Status status) {
    restart = std::move(status);
    done.Notify();
  });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(kTestTimeout));
  EXPECT_TRUE(restart.ok()) << restart;
  EXPECT_EQ(Register(*device), 42u);
}

TEST_P(HostileControlTest, TheEndOfTheVmEndsItsSupervisor) {
  auto device = FloodingDevice(absl::Seconds(1));
  device.reset();  // the test's own time limit judges
  EXPECT_TRUE(WaitUntil([] { return Children().empty(); }));
}

INSTANTIATE_TEST_SUITE_P(Floods, HostileControlTest,
                         testing::Values("flood_pings", "flood_settings"));

}  // namespace
}  // namespace bulkhead::vmm

int main(int argc, char** argv) {
  bulkhead::vmm::ControlClient::IsolateConnections();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
