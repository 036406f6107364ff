// An unmodified Debian kernel on a network device: TCP both ways with segments and checksums left
// to the host, and with jumbo frames and several queues, while the device's process is killed. In a
// network namespace of the test's own.

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/run_command.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"
#include "integration/net/tcp_peer.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Minutes(5);
constexpr size_t kBytes = 4 << 20;
constexpr uint16_t kGuestPort = 5000;
constexpr uint16_t kHostPort = 5001;

#define GUEST(shell, ...)                                                       \
  ({                                                                            \
    const absl::StatusOr<std::string> guest_output = (shell)->Run(__VA_ARGS__); \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status();                    \
    *guest_output;                                                              \
  })

class LinuxNetTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }

  static void BootOnly(const std::string& net, const std::string& more,
                       std::unique_ptr<GuestShell>& guest) {
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--name=net", "--memory=256M", absl::StrCat("--net=", net), more});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest = *std::move(booted);
  }
  static void Boot(const std::string& net, const std::string& more,
                   std::unique_ptr<GuestShell>& guest) {
    ASSERT_NO_FATAL_FAILURE(BootOnly(net, more, guest));
    ASSERT_EQ(system("ip addr add 10.77.0.1/24 dev vmtap"), 0);
    GUEST(guest, "ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up");
  }

  // Sends all of `bytes` to the guest's port, and waits until it has read them.
  static void SendToGuest(const char* guest_ip, const std::string& bytes) {
    const UniqueFd to_guest = ConnectTcp(guest_ip, kGuestPort);
    ASSERT_TRUE(to_guest.ok()) << "the guest does not accept";
    ASSERT_EQ(SendAll(to_guest, bytes), "");
    shutdown(to_guest.get(), SHUT_WR);
    std::string nothing;
    ReceiveAll(to_guest, nothing);
  }

  // What the guest sends to the port of `listener` in one connection.
  static void ReceiveFromGuest(const UniqueFd& listener, std::string& got) {
    const UniqueFd from_guest = AcceptTcp(listener);
    ASSERT_TRUE(from_guest.ok()) << "the guest does not connect";
    ASSERT_EQ(ReceiveAll(from_guest, got), "");
  }

  // Sends a pattern to the guest and back: each byte must come back.
  static void TransferBothWays(GuestShell* guest, const char* guest_ip = "10.77.0.2",
                               const char* host_ip = "10.77.0.1") {
    const std::string bytes = TcpPattern(kBytes);
    // Some networks connect before the guest listens, and disconnect then.
    static_assert(kGuestPort == 0x1388);
    GUEST(guest, absl::StrCat("(nc -l -p ", kGuestPort, " -e /bin/sh -c 'cat > /tmp/got') & ",
                              "until grep -q ':1388 .* 0A' /proc/net/tcp*; do sleep 0.1; done"));
    std::thread sender([&] { SendToGuest(guest_ip, bytes); });
    const absl::Status received = guest->Run("wait", kTimeout).status();
    sender.join();
    ASSERT_TRUE(received.ok()) << received;

    const UniqueFd listener = ListenTcp(kHostPort);
    ASSERT_TRUE(listener.ok());
    std::string got;
    std::thread receiver([&] { ReceiveFromGuest(listener, got); });
    const absl::Status sent =
        guest
            ->Run(absl::StrCat("nc ", host_ip, " ", kHostPort, " < /tmp/got > /dev/null"), kTimeout)
            .status();
    receiver.join();
    ASSERT_TRUE(sent.ok()) << sent;
    EXPECT_EQ(got.size(), bytes.size());
    EXPECT_TRUE(got == bytes);
  }
};

TEST_F(LinuxNetTest, TcpPassesBothWaysWhileTheProcessIsKilled) {
  std::unique_ptr<GuestShell> guest;
  ASSERT_NO_FATAL_FAILURE(
      Boot("tap=vmtap,mac=52:54:00:12:34:56,restart=always", "--cpus=1", guest));
  EXPECT_EQ(GUEST(guest, "cat /sys/class/net/eth0/address"), "52:54:00:12:34:56");
  ASSERT_NO_FATAL_FAILURE(TransferBothWays(guest.get()));
  // FAILED after five ends in a minute: so few.
  constexpr int kKills = 4;
  const VmClient client(ControlSocketOf("net"));
  std::atomic<bool> all_killed = false;
  std::thread kills([&] {
    for (int i = 0; i < kKills; ++i) {
      const pid_t pid = client.PidOf("net0");
      if (pid > 0) kill(pid, SIGKILL);
      absl::SleepFor(absl::Seconds(1));
    }
    all_killed = true;
  });
  while (!all_killed && !HasFailure()) TransferBothWays(guest.get());
  kills.join();
  ASSERT_FALSE(HasFailure());
  const absl::StatusOr<v1::Device> device = client.GetDevice("net0");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->generation(), kKills + 1u);
  EXPECT_EQ(GUEST(guest, "ip -o link show eth0 | grep -c LOWER_UP"), "1");
  const absl::StatusOr<ExitInfo> exit = guest->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

TEST_F(LinuxNetTest, JumboFramesAndSeveralQueues) {
  std::unique_ptr<GuestShell> guest;
  ASSERT_NO_FATAL_FAILURE(Boot("tap=vmtap,mtu=9000,queues=2", "--cpus=2", guest));
  EXPECT_EQ(GUEST(guest, "cat /sys/class/net/eth0/mtu"), "9000");
  EXPECT_EQ(GUEST(guest, "ls -d /sys/class/net/eth0/queues/rx-* | wc -l"), "2");
  EXPECT_THAT(GUEST(guest, "ping -c 3 -s 8900 10.77.0.1"), HasSubstr("3 packets received"));
  ASSERT_NO_FATAL_FAILURE(TransferBothWays(guest.get()));
  EXPECT_THAT(guest->Leave()->ToString(), "exit code 0");
}

TEST_F(LinuxNetTest, FourPairsOfQueuesOnFourCpus) {
  std::unique_ptr<GuestShell> guest;
  ASSERT_NO_FATAL_FAILURE(Boot("tap=vmtap,queues=4", "--cpus=4", guest));
  EXPECT_EQ(GUEST(guest, "ls -d /sys/class/net/eth0/queues/rx-* | wc -l"), "4");
  ASSERT_NO_FATAL_FAILURE(TransferBothWays(guest.get()));
  EXPECT_THAT(guest->Leave()->ToString(), "exit code 0");
}

TEST_F(LinuxNetTest, WithoutOffloads) {
  std::unique_ptr<GuestShell> guest;
  ASSERT_NO_FATAL_FAILURE(Boot("tap=vmtap,offloads=off", "--cpus=1", guest));
  // CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, and MAC, which is there.
  EXPECT_EQ(GUEST(guest, "cut -c1,2,8,9,12,13,6 /sys/class/net/eth0/device/features"), "0010000");
  ASSERT_NO_FATAL_FAILURE(TransferBothWays(guest.get()));
  EXPECT_THAT(guest->Leave()->ToString(), "exit code 0");
}

}  // namespace
}  // namespace bulkhead::integration
