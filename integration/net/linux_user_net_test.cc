// An unmodified Debian kernel on the network of an ordinary user: TCP both ways through Debian's
// passt, while the device's process, the relay, the keeper and passt itself are killed, and passt
// is stopped. In a network namespace of the test's own.

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/processes.h"
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
// The guest has the host's address: the host's services need another one.
constexpr char kUplink[] = "10.88.0.2";
constexpr char kServices[] = "10.99.0.1";
constexpr uint16_t kServicePort = 5001;
constexpr uint16_t kForwardedPort = 15000;  // to kGuestPort
constexpr uint16_t kGuestPort = 5000;

#define GUEST(...)                                                                 \
  ({                                                                               \
    const absl::StatusOr<std::string> guest_output = guest_->Run(__VA_ARGS__);     \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status() << guest_->vm().log(); \
    *guest_output;                                                                 \
  })

constexpr size_t kPart = 256 << 10;

// What is wrong with bytes that should be the first `part` of the pattern again and again, or "".
std::string FaultOf(const std::string& bytes, size_t part) {
  const std::string pattern = TcpPattern(part);
  if (bytes.empty() || bytes.size() % part != 0) return absl::StrCat(bytes.size(), " bytes");
  for (size_t at = 0; at < bytes.size(); at += part) {
    if (bytes.compare(at, part, pattern) != 0) return absl::StrCat("wrong bytes from ", at, " on");
  }
  return "";
}

// Sends `bytes` to the guest, which sends them back. Returns what went wrong, or "".
std::string EchoedByGuest(const std::string& bytes) {
  const UniqueFd connection = ConnectTcp("127.0.0.1", kForwardedPort);
  if (!connection.ok()) return "nobody accepts at the forwarded port";
  std::string sent;
  std::thread sender([&] {
    sent = SendAll(connection, bytes);
    shutdown(connection.get(), SHUT_WR);
  });
  std::string got;
  const std::string received = ReceiveAll(connection, got);
  sender.join();
  if (sent != "" || received != "") return absl::StrCat(sent, " ", received);
  return got == bytes ? ""
                      : absl::StrCat(got.size(), " of ", bytes.size(), " bytes, or wrong ones");
}

class LinuxUserNetTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    ASSERT_EQ(EnterNetworkNamespace(), "");
    OutputOf(absl::StrCat("ip link set lo up && ip addr add ", kServices,
                          "/32 dev lo && ip tuntap add uplink mode tap && ip addr add ", kUplink,
                          "/24 dev uplink && ip link set uplink up && ip route add default via "
                          "10.88.0.1 dev uplink"));
  }

  void Boot() {
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--name=user-net", "--memory=256M", "--cpus=1",
                          absl::StrCat("--net=user,name=net,forward=", kForwardedPort, ":",
                                       kGuestPort, ",restart=always")});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
    // The address, the way out and the MTU come from passt.
    GUEST(
        "{ echo '#!/bin/sh'; echo '[ \"$1\" != bound ] || { ip addr add $ip/$mask dev eth0; "
        "ip link set eth0 mtu $mtu; ip route add default via $router; }'; } > /tmp/dhcp; "
        "chmod +x /tmp/dhcp; ip link set lo up; ip link set eth0 up; "
        "udhcpc -i eth0 -n -q -O mtu -s /tmp/dhcp");
    EXPECT_THAT(GUEST("ip -o addr show eth0"), HasSubstr(absl::StrCat(kUplink, "/24")));
    EXPECT_EQ(GUEST("cat /sys/class/net/eth0/mtu"), "65520");
    // The pattern, in one direction, then a server that sends back.
    static_assert(kGuestPort == 0x1388);
    const std::string listens = "until grep -q ':1388 .* 0A' /proc/net/tcp*; do sleep 0.1; done";
    GUEST(absl::StrCat("(nc -l -p ", kGuestPort, " -e /bin/sh -c 'cat > /tmp/sent') & ", listens));
    {
      const UniqueFd connection = ConnectTcp("127.0.0.1", kForwardedPort);
      ASSERT_TRUE(connection.ok());
      ASSERT_EQ(SendAll(connection, bytes_), "");
    }
    GUEST("wait");
    GUEST(absl::StrCat("head -c ", kPart, " /tmp/sent > /tmp/part; nc -ll -p ", kGuestPort,
                       " -e cat > /dev/null 2>&1 & ", listens));
  }

  // The guest's `input` arrives at a service of the host, part for part. Debian 12's passt ends a
  // connection that the guest has half closed only when it times out: nobody waits for nc.
  std::string ArrivesAtHost(const std::string& input, size_t part) {
    const UniqueFd listener = ListenTcp(kServicePort);
    if (!listener.ok()) return "the service's port is taken";
    const absl::Status started =
        guest_
            ->Run(absl::StrCat("(", input, ") 2>/dev/null | timeout 200 nc ", kServices, " ",
                               kServicePort, " > /dev/null &"))
            .status();
    if (!started.ok()) return started.ToString();
    return ReceivedByHost(listener, part);
  }
  static std::string ReceivedByHost(const UniqueFd& listener, size_t part) {
    const UniqueFd connection = AcceptTcp(listener);
    if (!connection.ok()) return "the guest does not connect";
    // It greets: Debian 12's passt resets a connection of the guest's after some 20 s in which the
    // other side has sent nothing at all.
    std::string got;
    std::string failure = SendAll(connection, "hello\n");
    if (failure == "") failure = ReceiveAll(connection, got);
    return failure != "" ? failure : FaultOf(got, part);
  }

  // After a death that may have cut connections off: new ones work, perhaps not at once.
  void ExpectNewConnectionsWork(const char* after) {
    const absl::Time start = absl::Now();
    const absl::Time deadline = absl::Now() + kTimeout;
    std::string wrong;
    do {
      wrong = EchoedByGuest("short");
    } while (wrong != "" && absl::Now() < deadline);
    ASSERT_EQ(wrong, "") << after;
    printf("%.1f s after %s connections work\n", absl::ToDoubleSeconds(absl::Now() - start), after);
    EXPECT_EQ(EchoedByGuest(bytes_), "") << after;
    EXPECT_EQ(ArrivesAtHost("cat /tmp/sent", kBytes), "") << after;
  }

  pid_t Keeper() const { return guest_->vm().HelperPid("vmm-net-keeper"); }
  // The child of the keeper whose name begins so: "passt" may have a suffix.
  pid_t ChildOfKeeper(const std::string& name) const {
    const pid_t keeper = Keeper();
    std::ifstream children(absl::StrCat("/proc/", keeper, "/task/", keeper, "/children"));
    for (pid_t child; children >> child;) {
      if (absl::StartsWith(ReadFile(absl::StrCat("/proc/", child, "/comm")), name)) return child;
    }
    return kNoProcess;
  }

  double Metric(const std::string& name) const {
    const absl::StatusOr<v1::VmMetrics> metrics = Client().GetMetrics();
    if (!metrics.ok()) return -1;
    for (const v1::MetricFamily& family : metrics->families()) {
      if (family.name() != absl::StrCat("bulkhead_device_model_", name)) continue;
      for (const v1::Sample& sample : family.samples()) {
        if (sample.labels().at("device") == "net") return sample.value();
      }
    }
    return -1;
  }

  // What is shown of passt.
  static v1::Program Program() {
    const absl::StatusOr<v1::Device> device = Client().GetDevice("net");
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? device->program() : v1::Program();
  }

  const std::string bytes_ = TcpPattern(kBytes);
  // Not before the start of the vmm: the harness chooses the socket's folder then.
  static VmClient Client() { return VmClient(ControlSocketOf("user-net")); }

  std::unique_ptr<GuestShell> guest_;
};

TEST_F(LinuxUserNetTest, TcpPassesBothWaysWhileEachProcessOnTheWayIsKilled) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  absl::Time start = absl::Now();
  ASSERT_EQ(EchoedByGuest(bytes_), "");
  const absl::Duration echoed = absl::Now() - start;
  start = absl::Now();
  ASSERT_EQ(ArrivesAtHost("cat /tmp/sent", kBytes), "");
  printf("%zu MiB to the guest and back in %.1f s, from the guest in %.1f s; %.0f frames waited\n",
         kBytes >> 20, absl::ToDoubleSeconds(echoed), absl::ToDoubleSeconds(absl::Now() - start),
         Metric("held_total"));
  EXPECT_EQ(Metric("send_failures_total"), 0);

  // Connections live on over deaths of the device's process. One in each direction is in use the
  // whole time.
  const pid_t passt = ChildOfKeeper("passt");
  ASSERT_NE(passt, kNoProcess);
  std::atomic<bool> all_killed = false;
  std::string forwarded = "not started";
  std::thread to_guest([&] {
    std::string stream;
    const UniqueFd connection = ConnectTcp("127.0.0.1", kForwardedPort);
    std::string sent;
    std::thread sender([&] {
      while (sent == "" && !all_killed) sent = SendAll(connection, bytes_.substr(0, kPart));
      shutdown(connection.get(), SHUT_WR);
    });
    const std::string received = ReceiveAll(connection, stream);
    sender.join();
    forwarded = absl::StrCat(sent, received, FaultOf(stream, kPart));
    printf("%zu MiB through the guest while the device's process was killed\n",
           stream.size() >> 20);
  });
  // FAILED after five ends in a minute: so few.
  constexpr int kKills = 4;
  std::thread kills([&] {
    for (int i = 0; i < kKills; ++i) {
      absl::SleepFor(absl::Seconds(1));
      pid_t pid;
      while ((pid = Client().PidOf("net")) == kNoProcess) absl::SleepFor(absl::Milliseconds(50));
      EXPECT_EQ(kill(pid, SIGKILL), 0);
    }
    absl::SleepFor(absl::Seconds(1));
    all_killed = true;
    to_guest.join();
  });
  // Longer than the kills take.
  EXPECT_EQ(ArrivesAtHost("for i in $(seq 60); do cat /tmp/part; sleep 0.2; done", kPart), "");
  kills.join();
  EXPECT_EQ(forwarded, "");
  EXPECT_EQ(Client().GetDevice("net")->generation(), kKills + 1u);
  EXPECT_EQ(ChildOfKeeper("passt"), passt) << "it hears nothing of these deaths";

  printf("all kills of the device's process are over\n");
  v1::Program program = Program();
  EXPECT_THAT(program.path(), HasSubstr("passt"));
  EXPECT_EQ(program.pid(), passt);
  EXPECT_EQ(program.starts(), 1u);

  // That somebody has stopped it is shown. (Continued under load, Debian 12's passt may spin for
  // ever.)
  ASSERT_EQ(kill(passt, SIGSTOP), 0);
  const absl::Time deadline = absl::Now() + kTimeout;
  while (!Program().stopped() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_TRUE(Program().stopped());
  EXPECT_EQ(Program().pid(), passt);

  // Over the death of passt, and of what starts it, new connections work.
  ASSERT_EQ(kill(passt, SIGKILL), 0);
  ASSERT_NO_FATAL_FAILURE(ExpectNewConnectionsWork("passt's death"));
  EXPECT_NE(ChildOfKeeper("passt"), passt);
  pid_t keeper = Keeper();
  ASSERT_EQ(kill(ChildOfKeeper("vmm-net-relay"), SIGKILL), 0);
  ASSERT_NO_FATAL_FAILURE(ExpectNewConnectionsWork("the relay's death"));
  EXPECT_NE(Keeper(), keeper);
  keeper = Keeper();
  ASSERT_EQ(kill(keeper, SIGKILL), 0);
  ASSERT_NO_FATAL_FAILURE(ExpectNewConnectionsWork("the keeper's death"));
  EXPECT_NE(Keeper(), keeper);
  EXPECT_EQ(Client().GetDevice("net")->generation(), kKills + 1u) << "the device notices nothing";
  program = Program();
  EXPECT_FALSE(program.stopped());
  EXPECT_EQ(program.pid(), ChildOfKeeper("passt"));
  EXPECT_EQ(program.starts(), 4u);
  EXPECT_GE(program.since().seconds(), absl::ToUnixSeconds(start));
  printf("lost frames: %lu of the guest, %lu to it\n", program.lost_frames().from_guest(),
         program.lost_frames().to_guest());

  const absl::StatusOr<ExitInfo> exit = guest_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << guest_->vm().log();
}

}  // namespace
}  // namespace bulkhead::integration
