#include "vmm/config/vsock.h"

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

std::string Problem(absl::string_view cid, absl::string_view socket = "/run/v") {
  VsockFlag flag;
  if (!cid.empty()) {
    EXPECT_TRUE(flag.Take("cid=" + std::string(cid)));
  }
  EXPECT_TRUE(flag.Take("socket=" + std::string(socket)));
  v1::DeviceConfig device;
  return flag.Fill(device);
}

TEST(VsockFlagTest, DescribesTheDevice) {
  VsockFlag flag;
  EXPECT_TRUE(flag.Take("cid=42"));
  EXPECT_TRUE(flag.Take("socket=/run/v"));
  EXPECT_FALSE(flag.Take("cids=42"));
  v1::DeviceConfig device;
  EXPECT_EQ(flag.Fill(device), "");
  EXPECT_EQ(device.binary(), "virtio_vsock");
  EXPECT_EQ(device.arg(0), "--cid=42");
  EXPECT_EQ(device.resources(0).name(), "host");
  EXPECT_EQ(device.resources(0).vsock().socket(), "/run/v");
}

TEST(VsockPlaceTest, IsFoundByItsResource) {
  v1::VmConfig config;
  config.add_devices()->add_resources()->mutable_console();
  EXPECT_FALSE(FindVsock(config).has_value());
  v1::DeviceConfig& device = *config.add_devices();
  device.add_resources()->mutable_file();
  v1::ResourceConfig& host = *device.add_resources();
  host.set_name("host");
  host.mutable_vsock()->set_socket("/run/v");
  const std::optional<VsockPlace> place = FindVsock(config);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->socket, "/run/v");
  EXPECT_EQ(place->device, 1u);
  EXPECT_EQ(place->resource, "host");
}

TEST(VsockFlagTest, EachBadFieldHasOneClearError) {
  EXPECT_EQ(Problem(""), "cid=N is missing; give the guest's address, 3 to 4294967294");
  for (const char* const cid : {"0", "1", "2", "4294967295"}) {
    EXPECT_EQ(Problem(cid), "cid=" + std::string(cid) + " is out of range (3 to 4294967294)");
  }
  for (const char* const cid : {"x", "-3", "4294967296", "3x"}) {
    EXPECT_EQ(Problem(cid), "cid=" + std::string(cid) + " is not a whole number (3 to 4294967294)");
  }
  EXPECT_EQ(Problem("3", ""), "socket=PATH: missing; give the path of a unix socket");
  EXPECT_EQ(Problem("3", std::string(96, 'x')), "");
  EXPECT_EQ(Problem("3", std::string(97, 'x')),
            "socket=PATH: \"" + std::string(97, 'x') +
                "\" is too long: 97 bytes, at most 96, since the sockets of ports have \"_PORT\" "
                "behind it");
}

}  // namespace
}  // namespace bulkhead::vmm
