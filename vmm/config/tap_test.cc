// In a network namespace of the test's own: it needs the right to make one, and /dev/net/tun.
#include "vmm/config/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/testing/network_namespace.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

class TapTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }

  // "FIELD: the error", or "".
  static std::string ErrorOf(const v1::TapResource& config) {
    std::string field;
    const absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Open(config, field);
    return tap.ok() ? "" : absl::StrCat(field, ": ", tap.status().message());
  }
  static std::unique_ptr<Tap> Open(const v1::TapResource& config) {
    std::string field;
    absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Open(config, field);
    EXPECT_TRUE(tap.ok()) << field << ": " << tap.status();
    return tap.ok() ? *std::move(tap) : nullptr;
  }
  static UniqueFd Attach(const char* name, int flags) {
    UniqueFd queue(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request = {};
    strcpy(request.ifr_name, name);
    request.ifr_flags = static_cast<int16_t>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags);
    EXPECT_EQ(ioctl(queue.get(), TUNSETIFF, &request), 0) << strerror(errno);
    return queue;
  }
  static bool Shell(const std::string& command) { return system(command.c_str()) == 0; }
  static bool Exists(const std::string& name) { return if_nametoindex(name.c_str()) != 0; }
};

TEST_F(TapTest, ATapThatTheVmmMakesIsUpInItsBridgeAndGoneAfterwards) {
  ASSERT_TRUE(Shell("ip link add br0 mtu 4000 type bridge"));
  v1::TapResource config;
  config.set_bridge("br0");
  config.set_queues(3);
  std::unique_ptr<Tap> tap = Open(config);
  ASSERT_NE(tap, nullptr);
  const std::string name = tap->name();
  EXPECT_TRUE(Shell("ip -o link show " + name + " | grep -q 'master br0'"));
  EXPECT_TRUE(Shell("ip -o link show " + name + " | grep -q '[<,]UP[,>]'"));
  EXPECT_TRUE(Shell("ip -o link show br0 | grep -q 'mtu 4000'"));
  EXPECT_EQ(tap->mtu(), 4000u);
  tap.reset();
  EXPECT_FALSE(Exists(name));
}

TEST_F(TapTest, QueuesAreAsADeviceNeedsThemWhateverTheLastProcessDid) {
  std::unique_ptr<Tap> tap = Open({});
  ASSERT_NE(tap, nullptr);
  const int fd = tap->ForNextProcess(0);
  int header = 0;
  ASSERT_EQ(ioctl(fd, TUNGETVNETHDRSZ, &header), 0);
  EXPECT_EQ(header, 12);
  EXPECT_EQ(tap->mtu(), 0u);
  ASSERT_EQ(fcntl(fd, F_SETFL, O_ASYNC), 0);
  ASSERT_EQ(fcntl(fd, F_SETOWN, getpid()), 0);
  EXPECT_EQ(tap->ForNextProcess(0), fd);
  EXPECT_EQ(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ASYNC), O_NONBLOCK);
  EXPECT_EQ(fcntl(fd, F_GETOWN), 0);
}

TEST_F(TapTest, ATapThatExistsIsUsedAndStays) {
  ASSERT_TRUE(Shell("ip tuntap add old mode tap multi_queue && ip link set old mtu 9000"));
  v1::TapResource config;
  config.set_name("old");
  EXPECT_TRUE(absl::StrContains(ErrorOf(config), "name: \"old\" is no TAP without several queues"));
  config.set_queues(2);
  std::unique_ptr<Tap> tap = Open(config);
  ASSERT_NE(tap, nullptr);
  EXPECT_EQ(tap->mtu(), 9000u);
  tap.reset();
  EXPECT_TRUE(Exists("old"));
  config.set_mtu(9001);
  EXPECT_TRUE(
      absl::StrContains(ErrorOf(config), "mtu: mtu 9001 is more than that of \"old\", 9000"));
  config.set_bridge("br1");
  EXPECT_TRUE(
      absl::StrContains(ErrorOf(config), "bridge: bridge \"br1\": only a TAP that the vmm"));
}

TEST_F(TapTest, ATapThatIsInUseIsRefused) {
  v1::TapResource config;
  config.set_name("mine");
  const std::unique_ptr<Tap> tap = Open(config);
  ASSERT_NE(tap, nullptr);
  EXPECT_EQ(ErrorOf(config), "name: TAP \"mine\": is in use by another program");
}

TEST_F(TapTest, ATapWithSeveralQueuesIsRefusedWhileAnotherProgramHasSome) {
  ASSERT_TRUE(Shell("ip tuntap add many mode tap multi_queue"));
  v1::TapResource config;
  config.set_name("many");
  config.set_queues(2);
  std::unique_ptr<Tap> tap = Open(config);
  ASSERT_NE(tap, nullptr);
  constexpr char kInUse[] =
      "name: TAP \"many\": is in use by another program, which has queues of it";
  EXPECT_EQ(ErrorOf(config), kInUse);
  tap.reset();
  const UniqueFd queue = Attach("many", IFF_MULTI_QUEUE);
  EXPECT_EQ(ErrorOf(config), kInUse);
  ifreq request = {};
  request.ifr_flags = IFF_DETACH_QUEUE;
  ASSERT_EQ(ioctl(queue.get(), TUNSETQUEUE, &request), 0);
  EXPECT_EQ(ErrorOf(config), kInUse) << "it may attach again";
}

TEST_F(TapTest, ATapThatAnotherProgramHasMadeForItselfIsRefused) {
  const UniqueFd queue = Attach("theirs", IFF_MULTI_QUEUE);
  v1::TapResource config;
  config.set_name("theirs");
  config.set_queues(2);
  EXPECT_EQ(
      ErrorOf(config),
      "name: TAP \"theirs\": was made by another program for itself, or removed just now; give "
      "another name, or start again");
}

// Each either gets it and has set it up, or is refused.
TEST_F(TapTest, OfSeveralThatAskForANameAtOnceOneAtMostHasIt) {
  ASSERT_TRUE(Shell("ip link add br2 type bridge && ip link set br2 mtu 3000"));
  v1::TapResource config;
  config.set_name("race");
  config.set_bridge("br2");
  config.set_queues(2);
  std::atomic<int> holders = 0;
  std::atomic<int> successes = 0;
  const auto compete = [&] {
    for (int i = 0; i < 50; ++i) {
      std::string field;
      const absl::StatusOr<std::unique_ptr<Tap>> tap = Tap::Open(config, field);
      if (!tap.ok()) continue;
      EXPECT_EQ(++holders, 1);
      ++successes;
      EXPECT_EQ((*tap)->mtu(), 3000u) << "it was not set up";
      --holders;
    }
  };
  // Threads have the namespace of the thread that starts them.
  std::thread first(compete);
  std::thread second(compete);
  first.join();
  second.join();
  EXPECT_GT(successes, 0);
}

TEST_F(TapTest, ADescriptorIsInherited) {
  const UniqueFd queue = Attach("given", 0);
  v1::TapResource config;
  config.add_fd(queue.get());
  const std::unique_ptr<Tap> tap = Open(config);
  ASSERT_NE(tap, nullptr);
  EXPECT_EQ(tap->name(), "given");
  EXPECT_NE(fcntl(tap->ForNextProcess(0), F_GETFL) & O_NONBLOCK, 0);
  config.set_fd(0, STDERR_FILENO);
  EXPECT_TRUE(absl::StrContains(ErrorOf(config), "fd: fd 2 is no queue of a TAP"));
}

TEST_F(TapTest, AnInheritedTapMayBeInAnotherNetworkNamespace) {
  const UniqueFd queue = Attach("far", 0);
  v1::TapResource config;
  config.add_fd(queue.get());
  const auto mtu_elsewhere = [&] {
    std::unique_ptr<Tap> tap;
    std::thread([&] {
      ASSERT_EQ(unshare(CLONE_NEWNET), 0);
      tap = Open(config);
    }).join();
    return tap == nullptr ? -1 : static_cast<int>(tap->mtu());
  };
  EXPECT_EQ(mtu_elsewhere(), 0);
  config.set_mtu(9000);
  EXPECT_EQ(mtu_elsewhere(), 9000);
}

TEST_F(TapTest, ErrorsNameTheFieldAndWhatWouldBeRight) {
  const auto error = [](auto set) {
    v1::TapResource config;
    set(config);
    return ErrorOf(config);
  };
  EXPECT_EQ(
      error([](auto& c) { c.set_name("a/b"); }),
      "name: \"a/b\" is not an interface name: must be 1 to 15 printable characters without '/', "
      "':', '%' and spaces");
  EXPECT_EQ(error([](auto& c) { c.set_mtu(67); }), "mtu: mtu 67 is out of range (68 to 65521)");
  EXPECT_EQ(error([](auto& c) { c.set_queues(17); }),
            "queues: 17 queues are out of range (1 to 16)");
  EXPECT_EQ(error([](auto& c) { c.set_mac("53:54:00:12:34:56"); }),
            "mac: mac \"53:54:00:12:34:56\" is no address of one station: give six bytes, the "
            "first one even, such as 52:54:00:12:34:56");
  EXPECT_EQ(error([](auto& c) { c.set_bridge("no-br"); }),
            "bridge: bridge \"no-br\": there is no such interface; make it with \"ip link add "
            "no-br type bridge\"");
  EXPECT_EQ(error([](auto& c) { c.set_bridge("lo"); }), "bridge: bridge \"lo\": is no bridge");
}

TEST(MacFromNamesTest, IsLocalStableAndOfBothNames) {
  const std::string mac = MacFromNames("vm", "net0");
  EXPECT_EQ(mac, MacFromNames("vm", "net0"));
  EXPECT_NE(mac, MacFromNames("vm", "net1"));
  EXPECT_NE(mac, MacFromNames("vm-2", "net0"));
  EXPECT_NE(MacFromNames("vmn", "et0"), MacFromNames("vm", "net0"));
  EXPECT_EQ(std::stoi(mac.substr(0, 2), nullptr, 16) & 3, 2);
}

TEST(RandomMacTest, IsLocalAndAnotherEachTime) {
  const std::string mac = RandomMac().value();
  EXPECT_NE(mac, RandomMac().value());
  EXPECT_EQ(std::stoi(mac.substr(0, 2), nullptr, 16) & 3, 2);
}

}  // namespace
}  // namespace bulkhead::vmm
