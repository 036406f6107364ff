// An unmodified Debian kernel on a network device: TCP both ways with segments and checksums left
// to the host, and with jumbo frames and several queues, while the device's process is killed; each
// pair of queues in use by its CPU; and the commands of the control queue. In a network namespace
// of the test's own.

#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
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
constexpr int kPairs = 4;
constexpr size_t kBytesPerCpu = 1 << 20;

#define GUEST(shell, ...)                                                       \
  ({                                                                            \
    const absl::StatusOr<std::string> guest_output = (shell)->Run(__VA_ARGS__); \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status();                    \
    *guest_output;                                                              \
  })

using Mac = std::array<uint8_t, 6>;

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

  // Sends what comes in one connection back. Returns what went wrong, or "".
  static std::string EchoOnce(const UniqueFd& listener) {
    const UniqueFd connection = AcceptTcp(listener);
    if (!connection.ok()) return "the guest does not connect";
    std::string got;
    const std::string received = ReceiveAll(connection, got);
    if (received != "") return received;
    if (got != TcpPattern(kBytesPerCpu)) return absl::StrCat(got.size(), " bytes, or wrong ones");
    return SendAll(connection, got);
  }

  // Each CPU of the guest sends bytes to the host and gets them back, all at once, each over a
  // connection of its own. /tmp/got has the bytes.
  static void EchoFromEachCpu(GuestShell* guest) {
    GUEST(guest, absl::StrCat("head -c ", kBytesPerCpu, " /tmp/got > /tmp/part"));
    std::vector<UniqueFd> listeners;
    for (int cpu = 0; cpu < kPairs; ++cpu) {
      listeners.push_back(ListenTcp(static_cast<uint16_t>(kHostPort + cpu)));
      ASSERT_TRUE(listeners.back().ok());
    }
    std::vector<std::string> wrong(kPairs);
    std::vector<std::thread> peers;
    for (int cpu = 0; cpu < kPairs; ++cpu) {
      peers.emplace_back([&, cpu] { wrong[cpu] = EchoOnce(listeners[cpu]); });
    }
    const absl::StatusOr<std::string> compared = guest->Run(
        absl::StrCat("for cpu in 0 1 2 3; do taskset $((1 << cpu)) nc 10.77.0.1 $((", kHostPort,
                     " + cpu)) < /tmp/part > /tmp/back$cpu & done; wait; "
                     "for cpu in 0 1 2 3; do cmp /tmp/part /tmp/back$cpu; done 2>&1"),
        kTimeout);
    for (std::thread& peer : peers) peer.join();
    for (int cpu = 0; cpu < kPairs; ++cpu) EXPECT_EQ(wrong[cpu], "") << cpu;
    ASSERT_TRUE(compared.ok()) << compared.status();
    EXPECT_EQ(*compared, "");
  }

  // How many interrupts the guest has had of each queue: "input.0", "output.0" and so on.
  static void CountInterrupts(GuestShell* guest, std::map<std::string, int>& counts) {
    std::istringstream lines(
        GUEST(guest,
              "awk '/virtio[0-9]*-(in|out)put/ { n = 0; for (i = 2; i <= 5; ++i) n += $i; "
              "sub(/.*-/, \"\", $NF); print $NF, n }' /proc/interrupts"));
    std::string queue;
    for (int count; lines >> queue >> count;) counts[queue] = count;
  }

  // Sends frames of no protocol to `to`, with a VLAN tag unless `vlan` is 0.
  static void SendFrames(const Mac& to, uint16_t vlan, int count) {
    const UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    ASSERT_TRUE(socket.ok());
    sockaddr_ll place = {};
    place.sll_family = AF_PACKET;
    place.sll_ifindex = static_cast<int>(if_nametoindex("vmtap"));
    ASSERT_NE(place.sll_ifindex, 0);
    std::string frame(to.begin(), to.end());
    frame += std::string("\x02\0\0\0\0\x01", 6);
    if (vlan != 0) {
      frame += std::string("\x81\0", 2);
      frame += static_cast<char>(vlan >> 8);
      frame += static_cast<char>(vlan);
    }
    frame += "\x88\xb5";  // for experiments
    frame.resize(60, 'x');
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(sendto(socket.get(), frame.data(), frame.size(), 0,
                       reinterpret_cast<const sockaddr*>(&place), sizeof(place)),
                static_cast<ssize_t>(frame.size()));
    }
  }

  static int ReceivedBy(GuestShell* guest, const std::string& interface) {
    const absl::StatusOr<std::string> text =
        guest->Run(absl::StrCat("cat /sys/class/net/", interface, "/statistics/rx_packets"));
    int count = 0;
    EXPECT_TRUE(text.ok() && absl::SimpleAtoi(*text, &count)) << text.status();
    return count;
  }

  // Whether the device gives the guest such frames. Those of the pings come after them, and are
  // fewer.
  static bool Delivers(GuestShell* guest, const Mac& to, uint16_t vlan = 0) {
    constexpr int kFrames = 50;
    const int before = ReceivedBy(guest, "eth0");
    SendFrames(to, vlan, kFrames);
    const absl::StatusOr<std::string> pings = guest->Run("ping -c 2 10.77.0.1", kTimeout);
    EXPECT_TRUE(pings.ok()) << pings.status();
    return ReceivedBy(guest, "eth0") - before >= kFrames;
  }

  // Kills the device's process, and waits until its successor serves.
  static void Replace() {
    const VmClient client(ControlSocketOf("net"));
    const uint64_t generation = client.GenerationOf("net0");
    ASSERT_TRUE(client.KillProcessOf("net0"));
    ASSERT_TRUE(client.AwaitGeneration("net0", generation + 1));
    const absl::Time deadline = absl::Now() + kTimeout;
    while (client.PidOf("net0") <= 0 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(50));
    }
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
      EXPECT_TRUE(client.AwaitGeneration("net0", i + 1u));
      EXPECT_TRUE(client.KillProcessOf("net0"));
      absl::SleepFor(absl::Seconds(1));
    }
    all_killed = true;
  });
  while (!all_killed && !HasFailure()) TransferBothWays(guest.get());
  kills.join();
  ASSERT_FALSE(HasFailure());
  EXPECT_TRUE(client.AwaitGeneration("net0", kKills + 1u));
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

TEST_F(LinuxNetTest, FourPairsOfQueuesOnFourCpusAndTheControlQueue) {
  std::unique_ptr<GuestShell> guest;
  ASSERT_NO_FATAL_FAILURE(
      Boot("tap=vmtap,mac=52:54:00:12:34:56,queues=4,restart=always", "--cpus=4", guest));
  EXPECT_EQ(GUEST(guest, "ls -d /sys/class/net/eth0/queues/rx-* | wc -l"), "4");
  ASSERT_NO_FATAL_FAILURE(TransferBothWays(guest.get()));
  {
    SCOPED_TRACE("each pair is in use");
    std::map<std::string, int> before, after;
    ASSERT_NO_FATAL_FAILURE(CountInterrupts(guest.get(), before));
    ASSERT_NO_FATAL_FAILURE(EchoFromEachCpu(guest.get()));
    ASSERT_NO_FATAL_FAILURE(CountInterrupts(guest.get(), after));
    EXPECT_EQ(after.size(), 2u * kPairs);
    for (const auto& [queue, count] : after) {
      printf("%s: %d interrupts\n", queue.c_str(), count - before[queue]);
      EXPECT_GT(count, before[queue]) << queue;
    }
  }
  const Mac first = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
  const Mac second = {0x52, 0x54, 0, 0xaa, 0xbb, 0xcc};
  const Mac other = {0x52, 0x54, 0, 0xff, 0xff, 0xff};
  {
    SCOPED_TRACE("another address");
    EXPECT_TRUE(Delivers(guest.get(), first));
    EXPECT_FALSE(Delivers(guest.get(), second));
    GUEST(guest, "ip link set eth0 address 52:54:00:aa:bb:cc");
    ASSERT_EQ(system("ip neigh flush dev vmtap"), 0);
    EXPECT_FALSE(Delivers(guest.get(), first));
    EXPECT_TRUE(Delivers(guest.get(), second));
  }
  {
    SCOPED_TRACE("a VLAN, also after the death of the process that heard of it");
    constexpr uint16_t kVlan = 0x105, kOtherVlan = 0x106;
    GUEST(guest, "modprobe 8021q");
    EXPECT_FALSE(Delivers(guest.get(), second, kVlan));
    GUEST(guest, "ip link add link eth0 name eth0.v type vlan id 261 && ip link set eth0.v up");
    for (const bool has_successor : {false, true}) {
      if (has_successor) {
        ASSERT_NO_FATAL_FAILURE(Replace());
      }
      EXPECT_TRUE(Delivers(guest.get(), second, kVlan)) << has_successor;
      EXPECT_FALSE(Delivers(guest.get(), second, kOtherVlan)) << has_successor;
      EXPECT_FALSE(Delivers(guest.get(), first)) << has_successor;
    }
    EXPECT_GE(ReceivedBy(guest.get(), "eth0.v"), 100);
    GUEST(guest, "ip link del eth0.v");
    EXPECT_FALSE(Delivers(guest.get(), second, kVlan));
  }
  {
    SCOPED_TRACE("promiscuous");
    EXPECT_FALSE(Delivers(guest.get(), other));
    GUEST(guest, "ip link set eth0 promisc on");
    EXPECT_TRUE(Delivers(guest.get(), other));
    ASSERT_NO_FATAL_FAILURE(Replace());
    EXPECT_TRUE(Delivers(guest.get(), other));
    GUEST(guest, "ip link set eth0 promisc off");
    EXPECT_FALSE(Delivers(guest.get(), other));
  }
  EXPECT_EQ(guest->KernelErrors().value_or("the guest is silent"), "");
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
