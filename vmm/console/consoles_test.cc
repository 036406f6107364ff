#include "vmm/console/consoles.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

DeviceSpec Device(const std::string& name, bool has_console) {
  DeviceSpec device;
  device.name = name;
  device.resources.emplace_back().name = "other";
  if (has_console) {
    ResourceSpec& console = device.resources.emplace_back();
    console.name = "console";
    console.is_console = true;
  }
  return device;
}

Consoles Make(std::vector<DeviceSpec>& devices) { return *Consoles::Create(devices); }

TEST(ConsolesTest, TheOnlyOneNeedsNoName) {
  std::vector<DeviceSpec> devices;
  devices.push_back(Device("disk", false));
  devices.push_back(Device("com1", true));
  const Consoles consoles = Make(devices);
  ASSERT_TRUE(consoles.Find("").ok());
  EXPECT_EQ(*consoles.Find(""), *consoles.Find("com1"));
  EXPECT_EQ(consoles.Find("disk").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(consoles.Find("disk").status().message(), "\"disk\" has no console; there is com1");
}

TEST(ConsolesTest, OfSeveralOneMustBeNamed) {
  std::vector<DeviceSpec> devices;
  devices.push_back(Device("com1", true));
  devices.push_back(Device("com2", true));
  const Consoles consoles = Make(devices);
  EXPECT_EQ(consoles.Find("").status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(consoles.Find("com2").ok());
  EXPECT_NE(*consoles.Find("com1"), *consoles.Find("com2"));
}

TEST(ConsolesTest, WithoutOneNoneIsFound) {
  std::vector<DeviceSpec> devices;
  EXPECT_EQ(Make(devices).Find("").status().code(), absl::StatusCode::kNotFound);
}

TEST(ConsolesTest, ItsDeviceGetsANewSocketForEachProcess) {
  std::vector<DeviceSpec> devices;
  devices.push_back(Device("com1", true));
  const Consoles consoles = Make(devices);
  EXPECT_FALSE(devices[0].resources[0].connect);
  EXPECT_GE(devices[0].resources[1].connect(), 0);
  EXPECT_GE(devices[0].resources[1].connect(), 0);
}

}  // namespace
}  // namespace bulkhead::vmm
