// What becomes of a command to restart a device that cannot be carried out at once, or not at all.
#include <string.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervisor_fixture.h"
#include "vmm/config/host_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

using RestartTest = SupervisorTest;

TEST_F(RestartTest, WithAnotherBinaryIsNotTakenBackWhileTheOldProcessesIoLasts) {
  const std::string path = DirectFile();
  const auto device = Device(DirectSpec(path));
  // What the kernel keeps open while it reads or writes for that process.
  UniqueFd in_flight = DescriptorOf(device->Describe().pid(), path);
  ASSERT_TRUE(in_flight.ok()) << strerror(errno);
  const std::string other = BinaryThat("");
  const absl::Status restarted = Restart(*device, other);
  EXPECT_TRUE(absl::IsDeadlineExceeded(restarted)) << restarted;
  EXPECT_THAT(std::string(restarted.message()), HasSubstr("waits for the I/O"));
  EXPECT_EQ(device->Describe().state(), v1::Device::RESTARTING);
  EXPECT_THAT(device->Describe().state_reason(), HasSubstr("waits for the I/O"));
  in_flight.reset();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(device->Describe().binary(), other);
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(RestartTest, ThatDiscardsTheStateSaysSoWhenItsBinaryThenFails) {
  const auto device = Device(Spec(""));
  const absl::Status restarted = Restart(*device, BinaryThat("refuse"), /*discard_state=*/true);
  EXPECT_TRUE(absl::IsFailedPrecondition(restarted)) << restarted;
  EXPECT_THAT(std::string(restarted.message()), HasSubstr("its state is discarded"));
  EXPECT_EQ(device->Describe().binary(), DeviceBinary());
  EXPECT_EQ(Read(*device), 0u);
}

}  // namespace
}  // namespace bulkhead::vmm
