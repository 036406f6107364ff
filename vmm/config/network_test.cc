#include "vmm/config/network.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

// "FIELD: the error", or the forwards that it was understood as.
std::string Read(const v1::UserNetwork& config) {
  std::string field;
  const absl::StatusOr<UserNetSpec> spec = ReadUserNetwork(config, field);
  if (!spec.ok()) return absl::StrCat(field, ": ", spec.status().message());
  std::string text = spec->program + (spec->host_loopback ? " loopback" : "");
  for (const std::string& forward : spec->forwards) text += " " + forward;
  return text;
}

TEST(UserNetworkTest, PortsAreThoseOfLoopbackUnlessAnAddressIsGiven) {
  v1::UserNetwork config;
  config.set_program("/bin/sh");
  config.add_forward("8022:22");
  config.add_forward("0.0.0.0/80:8080");
  config.add_forward("::1/1:65535");
  EXPECT_EQ(Read(config), "/bin/sh 127.0.0.1/8022:22 0.0.0.0/80:8080 ::1/1:65535");
  config.clear_forward();
  config.set_host_loopback(true);
  EXPECT_EQ(Read(config), "/bin/sh loopback");
}

TEST(UserNetworkTest, ErrorsNameTheFieldAndWhatWouldBeRight) {
  for (const char* const bad :
       {"", "22", "22:", "0:22", "1:65536", "1:2:3", "x/1:2", "/1:2", "1:2/"}) {
    v1::UserNetwork config;
    config.set_program("/bin/sh");
    config.add_forward("1:1");
    config.add_forward(bad);
    EXPECT_EQ(Read(config),
              absl::StrCat("forward[1]: forward \"", bad,
                           "\" is not valid; give PORT:GUESTPORT, such as 8022:22, or "
                           "ADDRESS/PORT:GUESTPORT"));
  }
  v1::UserNetwork config;
  config.set_program("/no/passt");
  EXPECT_EQ(Read(config), "program: \"/no/passt\" is not installed, or may not be executed");
  config.set_mac("53:54:00:12:34:56");
  EXPECT_EQ(
      Read(config),
      "mac: mac \"53:54:00:12:34:56\" is no address of one station: give six bytes, the first "
      "one even, such as 52:54:00:12:34:56");
}

TEST(UserNetworkTest, APasstThatIsNotInstalledIsNamed) {
  v1::UserNetwork config;
  config.set_program("no-such-passt");
  EXPECT_EQ(Read(config), "program: \"no-such-passt\" is not installed, or may not be executed");
}

TEST(NetworkTest, EachDeviceHasALinkAndItsFlags) {
  std::vector<DeviceSpec> devices(2);
  devices[0].name = "net0";
  EXPECT_TRUE(FinishNetwork("52:54:00:12:34:56", 9000, false, "vm", devices[0]).ok());
  EXPECT_EQ(devices[0].args, (std::vector<std::string>{"--mac=52:54:00:12:34:56", "--mtu=9000",
                                                       "--offloads=false"}));
  ASSERT_EQ(devices[0].resources.size(), 1u);
  EXPECT_EQ(devices[0].resources[0].name, "link");
  EXPECT_GE(devices[0].resources[0].connect(), 0);
  const NetworkLinks links = LinksOf(devices);
  ASSERT_EQ(links.size(), 1u);
  EXPECT_TRUE(links.at("net0")->up());
}

TEST(NetworkTest, FlagsThatTheVmmGivesAreFound) {
  v1::DeviceConfig config;
  config.add_arg("--queue_size=64");
  std::string field;
  EXPECT_EQ(FindNetworkFlag(config, field), -1);
  config.add_arg("-offloads");
  EXPECT_EQ(FindNetworkFlag(config, field), 1);
  EXPECT_EQ(field, "no_offloads");
}

}  // namespace
}  // namespace bulkhead::vmm
