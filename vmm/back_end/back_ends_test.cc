#include "vmm/back_end/back_ends.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/vm_spec.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {
namespace {

class BackEndsTest : public testing::Test {
 protected:
  BackEndsTest() {
    std::ofstream(image_) << "image";
    std::ofstream(base_) << "base";
  }
  // As a vmm does it; the locks last as long as `processes`.
  absl::Status Add(std::vector<BackEndSpec::File> files, std::vector<SideProcess>& processes) {
    std::vector<DeviceSpec> devices(1);
    devices[0].name = "disk";
    devices[0].resources.emplace_back();
    devices[0].resources[0].back_end = std::make_shared<const BackEndSpec>(
        BackEndSpec{.binary = "/bin/true", .args = {}, .files = std::move(files)});
    return AddBackEnds(devices, SandboxLayers::OfDevices(), processes);
  }

  const std::string folder_ = MakeTempFolder();
  const std::string image_ = folder_ + "/image.qcow2";
  const std::string base_ = folder_ + "/base.img";
};

TEST_F(BackEndsTest, AnImageIsOneVmsAndABackingFileManys) {
  std::vector<SideProcess> first, second;
  ASSERT_TRUE(Add({{.path = image_}, {.path = base_, .read_only = true}}, first).ok());
  const absl::Status refused = Add({{.path = image_}}, second);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(refused.message(), "device 'disk': " + image_ + " is in use by another VM or device");
  EXPECT_FALSE(Add({{.path = image_, .read_only = true}}, second).ok());
  EXPECT_TRUE(Add({{.path = base_, .read_only = true}}, second).ok());
  EXPECT_FALSE(Add({{.path = base_}}, second).ok());
  first.clear();
  second.clear();
  EXPECT_TRUE(Add({{.path = image_}, {.path = base_}}, second).ok());
}

// Bytes from 100 and from 200 on: what QEMU has and what it does not share.
TEST_F(BackEndsTest, TheLocksOfQemusProgramsAreLeftAlone) {
  std::vector<SideProcess> processes;
  ASSERT_TRUE(Add({{.path = image_}}, processes).ok());
  const int daemon = open(image_.c_str(), O_RDWR | O_CLOEXEC);
  struct flock range = {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_start = 100;
  range.l_len = 200;
  EXPECT_EQ(fcntl(daemon, F_OFD_SETLK, &range), 0);
  close(daemon);
}

TEST_F(BackEndsTest, AFolderIsNotLocked) {
  std::vector<SideProcess> processes;
  EXPECT_TRUE(Add({{.path = folder_}, {.path = folder_, .read_only = true}}, processes).ok());
  EXPECT_TRUE(Add({{.path = folder_}}, processes).ok());
}

TEST_F(BackEndsTest, AFileThatIsMissingIsAnError) {
  std::vector<SideProcess> processes;
  EXPECT_TRUE(absl::IsNotFound(Add({{.path = folder_ + "/none"}}, processes)));
}

}  // namespace
}  // namespace bulkhead::vmm
