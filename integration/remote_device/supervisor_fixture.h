#ifndef BULKHEAD_INTEGRATION_REMOTE_DEVICE_SUPERVISOR_FIXTURE_H_
#define BULKHEAD_INTEGRATION_REMOTE_DEVICE_SUPERVISOR_FIXTURE_H_

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {

inline constexpr uint64_t kAllOnes = ~uint64_t{0};
inline constexpr uint64_t kRegister = 0;

class SupervisorTest : public SupervisedTest {
 protected:
  // A device whose register holds 42.
  std::unique_ptr<DeviceSupervisor> Device(DeviceSpec spec) {
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device = Supervise(std::move(spec));
    EXPECT_TRUE(device.ok()) << device.status();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    return *std::move(device);
  }
  std::unique_ptr<DeviceSupervisor> Device() { return Device(Spec("")); }

  static uint64_t Read(DeviceSupervisor& device, uint64_t offset = kRegister) {
    return device.device().Read(1, 0, offset, 8);
  }
  static pid_t Pid(const DeviceSupervisor& device) { return device.Describe().pid(); }
  static DeviceSpec WithHeartbeats(DeviceSpec spec) {
    spec.heartbeat = {.interval = absl::Milliseconds(100), .misses = 3};
    return spec;
  }
  std::string LastCause(const DeviceSupervisor& device) {
    const v1::Device described = device.Describe();
    if (described.recent_restarts().empty()) return "";
    return described.recent_restarts().rbegin()->cause();
  }
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_INTEGRATION_REMOTE_DEVICE_SUPERVISOR_FIXTURE_H_
