// All devices of an unmodified Debian guest under load at once, while their processes and back ends
// are killed and stopped: files that are checked on a raw and a qcow2 disk, TCP connections both
// ways that live through all of it, vsock connections both ways, a checker of file trees in a
// shared folder, the entropy source, the balloon, the console. In a network namespace of the test's
// own.
//
// virtiofsd is only stopped: its death is not one that a mounted folder gets over
// (docs/vhost_user.md). --kills=200 is the long form: see CONTRIBUTING.md.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/storm/disk_storm_report.h"
#include "integration/storm/disturber.h"
#include "integration/storm/everything.h"
#include "integration/vhost_user/back_ends.h"
#include "integration/vsock/host_end.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);
constexpr char kTap[] = "storm0";
constexpr char kHostIp[] = "10.77.0.1";
constexpr char kGuestIp[] = "10.77.0.2";
constexpr uint16_t kTcpPort = 5001;
constexpr uint32_t kEchoPort = 7;
constexpr uint32_t kHostPort = 5000;
constexpr uint64_t kMiB = 1 << 20;
const std::vector<std::string> kDevices = {"console", "disk0", "disk1",   "net0",
                                           "vsock0",  "rng0",  "balloon", "share"};

sockaddr_in Address(const char* ip) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kTcpPort);
  inet_pton(AF_INET, ip, &address.sin_addr);
  return address;
}

// Not ok(): nobody listens there yet.
UniqueFd ConnectByTcp(const char* ip) {
  const sockaddr_in address = Address(ip);
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    fd.reset();
  }
  return fd;
}

class LinuxEverythingStormTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }
  ~LinuxEverythingStormTest() override {
    ending_ = true;
    guest_.reset();
    for (std::thread& load : loads_) load.join();
    server_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void Boot() {
    MakeFile(folder_ + "/raw", 32 * kMiB);
    MakeQcow(qcow_, 32 * kMiB);
    std::filesystem::create_directories(shared_);
    server_ = std::make_unique<EchoServer>(absl::StrCat(vsock_, "_", kHostPort));
    const std::string config = absl::StrCat(
        StormConsole(),
        StormDevice("disk0", "virtio_blk",
                    absl::StrCat("arg: \"--queues=2\" resources { name: \"disk\" file { path: \"",
                                 folder_, "/raw\" } }")),
        StormQcowDisk("disk1", qcow_),
        StormDevice("net0", "virtio_net",
                    absl::StrCat("resources { name: \"tap\" tap { name: \"", kTap, "\" } }")),
        StormDevice("vsock0", "virtio_vsock",
                    absl::StrCat("arg: \"--cid=42\" resources { name: \"host\" vsock { socket: \"",
                                 vsock_, "\" } }")),
        StormDevice("rng0", "virtio_rng", ""),
        StormDevice("balloon", "virtio_balloon", "resources { name: \"target\" balloon {} }"),
        StormShare("share", shared_, "data"));
    absl::StatusOr<std::unique_ptr<GuestShell>> guest =
        GuestShell::Boot({"--config=" + WriteTempFile("vm.textproto", config),
                          "--control=" + control_, "--memory=320M", "--cpus=2",
                          "--initrd=" + DataFile("integration/storm/everything_initramfs.cpio")});
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = *std::move(guest);
    ASSERT_EQ(system(absl::StrCat("ip addr add ", kHostIp, "/24 dev ", kTap).c_str()), 0);
    InGuest(absl::StrCat("ip addr add ", kGuestIp, "/24 dev eth0 && ip link set eth0 up"));
    InGuest("mount -t virtiofs data /mnt; set +m");  // no news of jobs between outputs
  }

  // Each goes on until EndLoads(), or is reset by a death and begins anew.
  void StartLoads() {
    for (const char* disk : {"vda", "vdb"}) {
      InGuest(absl::StrCat("diskstorm /dev/", disk, " 2 128 > /tmp/", disk, " 2>&1 & ", disk,
                           "=$!; until grep -q running /tmp/", disk, "; do sleep 0.1; done"));
    }
    StartTcp();
    InGuest(absl::StrCat("vsock serve ", kEchoPort, " > /tmp/serve 2>&1 & serve=$!; ",
                         "vsock storm ", kHostPort, " 2 > /tmp/call 2>&1 & call=$!"));
    for (uint32_t client = 0; client < 2; ++client) {
      loads_.emplace_back([this, client] {
        for (uint32_t i = 0; !ending_; ++i) {
          const UniqueFd fd = ConnectToGuest(vsock_, kEchoPort);
          const bool is_whole = fd.ok() && CheckEcho(fd, 50'000, client * 1000 + i, checked_);
          ++(is_whole ? whole_ : reset_);
          // The guest's server may not listen yet.
          if (!fd.ok()) absl::SleepFor(absl::Milliseconds(50));
        }
      });
    }
    InGuest(
        "n=0; while [ ! -e /tmp/stop ]; do n=$((n + 1)); mkdir /mnt/t$n; "
        "filetree /mnt/t$n $n 50 || break; echo tree $n; done > /tmp/trees 2>&1 & trees=$!");
    InGuest(
        "while [ ! -e /tmp/stop ]; do dd if=/dev/hwrng bs=64 count=1 of=/tmp/random 2> /dev/null; "
        "wc -c < /tmp/random; done > /tmp/rng 2>&1 & "
        "rng=$!");
    loads_.emplace_back([this] {
      for (uint64_t i = 0; !ending_; ++i) {
        EXPECT_TRUE(client_.SetBalloon((8 + i % 5 * 8) * kMiB).ok());
        for (int j = 0; j < 10 && !ending_; ++j) absl::SleepFor(absl::Milliseconds(100));
      }
    });
  }

  // One connection each way, each an echo by the guest. They end with the storm and not before.
  void StartTcp() {
    const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in any = Address("0.0.0.0");
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    InGuest(absl::StrCat("nc -l -p ", kTcpPort, " -e /bin/sh -c cat > /tmp/nc1 2>&1 & nc1=$!; ",
                         "nc ", kHostIp, " ", kTcpPort,
                         " -e /bin/sh -c cat > /tmp/nc2 2>&1 & nc2=$!"));
    pollfd entry = {.fd = listener.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&entry, 1, 60'000), 1) << "the guest does not connect";
    StartStream(UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)), 1);
    UniqueFd to_guest;
    for (int i = 0; i < 600 && !to_guest.ok(); ++i) {
      to_guest = ConnectByTcp(kGuestIp);
      if (!to_guest.ok()) absl::SleepFor(absl::Milliseconds(100));
    }
    ASSERT_TRUE(to_guest.ok()) << "the guest does not listen";
    StartStream(std::move(to_guest), 2);
  }
  void StartStream(UniqueFd fd, uint32_t seed) {
    ++streams_;
    loads_.emplace_back([this, fd = std::move(fd), seed] {
      if (CheckEchoUntil(fd, ending_, seed, tcp_checked_)) ++whole_streams_;
    });
  }

  void Storm(uint64_t kills) {
    std::vector<DisturbedPart> parts;
    for (const std::string& name : kDevices) {
      parts.push_back({.name = name, .find = [this, name] { return client_.PidOf(name); }});
    }
    parts.push_back({.name = "disk1's back end",
                     .find = [this] { return ProcessOf(kStorageDaemon, qcow_); },
                     .is_supervised = false});
    parts.push_back({.name = "share's back end",
                     .find = [this] { return ProcessOf(VirtiofsdPath(), shared_); },
                     .is_supervised = false,
                     .may_die = false});
    const absl::Time begin = SteadyNow();
    Disturber disturber(parts, {.limit = kills, .seed = EverythingSeed()});
    const absl::Time deadline = begin + kTimeout + kills * absl::Seconds(20);
    while (disturber.hits() < kills && !HasFailure() && SteadyNow() < deadline) {
      // The console is used all the while, too.
      const std::string line(100, 'x');
      ASSERT_EQ(InGuest("echo " + line), line);
    }
    EXPECT_EQ(disturber.hits(), kills) << Log();
    disturber.Stop();
    report_.parts = disturber.parts();
    report_.duration = SteadyNow() - begin;
    ASSERT_FALSE(HasFailure()) << Log();
  }

  // All goes on; then each load ends, and says what it has done.
  void Finish() {
    const uint64_t before = tcp_checked_;
    const absl::Time deadline = SteadyNow() + kTimeout;
    while (tcp_checked_ < before + 100'000 && SteadyNow() < deadline) InGuest("sleep 0.2");
    EXPECT_GE(tcp_checked_, before + 100'000)
        << "TCP stands still" << InGuest("ifconfig eth0; netstat -tn") << Log();
    fprintf(stderr, "storm: TCP has gone on after %.1f s\n",
            absl::ToDoubleSeconds(SteadyNow() - deadline + kTimeout));
    ending_ = true;
    // The guest's output is read meanwhile: else the guest would wait.
    std::atomic<bool> have_ended{false};
    std::thread joiner([&] {
      for (std::thread& load : loads_) load.join();
      have_ended = true;
    });
    while (!have_ended && !HasFailure()) InGuest("sleep 0.2");
    joiner.join();
    fprintf(stderr, "storm: connections have ended\n");
    loads_.clear();
    EXPECT_EQ(whole_streams_, streams_) << "TCP connections that lived through it";
    ExpectWholeEcho(vsock_, kEchoPort, 100'000, checked_);
    const double maybe_lost = client_.DeviceMetric("net0", "maybe_lost_total");
    const double maybe_repeated = client_.DeviceMetric("net0", "maybe_repeated_total");
    for (const DisturbedPart& part : report_.parts) {
      if (!part.is_supervised) continue;
      const absl::StatusOr<v1::Device> device = client_.GetDevice(part.name);
      ASSERT_TRUE(device.ok()) << device.status();
      EXPECT_GE(device->generation() - 1, part.kills + part.hangs) << part.name;
      if (part.name != "net0") continue;
      EXPECT_LE(maybe_lost, device->generation() - 1);
      EXPECT_LE(maybe_repeated, device->generation() - 1);
    }

    InGuest("touch /tmp/stop; wait $nc1 $nc2");
    AwaitInGuest("rng", "/tmp/rng");
    AwaitInGuest("trees", "/tmp/trees");
    std::map<std::string, uint64_t> disk0 = EndOf("vda", "diskstorm: reads");
    std::map<std::string, uint64_t> disk1 = EndOf("vdb", "diskstorm: reads");
    std::map<std::string, uint64_t> call = EndOf("call", "vsock: open");
    std::map<std::string, uint64_t> serve = EndOf("serve", "vsock: open");
    for (const auto& disk : {disk0, disk1}) {
      EXPECT_EQ(disk.at("failed"), 0u);
      EXPECT_EQ(disk.at("wrong_bytes"), 0u);
      EXPECT_GT(disk.at("writes"), 0u);
    }
    EXPECT_GT(call["whole"], 0u);
    EXPECT_GT(serve["whole"], 0u);
    const std::string trees = InGuest("grep -v progress /tmp/trees");
    EXPECT_FALSE(absl::StrContains(trees, "WRONG") || absl::StrContains(trees, "FAILED")) << trees;
    EXPECT_EQ(InGuest("grep -vc '^64$' /tmp/rng || true"), "0") << InGuest("sort -u /tmp/rng");
    const absl::StatusOr<v1::Balloon> set = client_.SetBalloon(16 * kMiB);
    ASSERT_TRUE(set.ok()) << set.status();
    const absl::Time balloon_deadline = SteadyNow() + kTimeout;
    uint64_t actual = 0;
    while (actual != 16 * kMiB && SteadyNow() < balloon_deadline) {
      InGuest("sleep 0.2");
      const absl::StatusOr<v1::Balloon> balloon = client_.GetBalloon();
      ASSERT_TRUE(balloon.ok()) << balloon.status();
      actual = balloon->actual_bytes();
    }
    EXPECT_EQ(actual, 16 * kMiB) << Log();
    const std::string rng_requests = InGuest("wc -l < /tmp/rng");
    const std::string tree_count = InGuest("grep -c ^tree /tmp/trees || true");
    EXPECT_NE(tree_count, "0");
    InGuest("umount /mnt");
    const absl::StatusOr<std::string> errors = guest_->KernelErrors();
    ASSERT_TRUE(errors.ok()) << errors.status();
    EXPECT_EQ(*errors, "") << "in the guest's kernel log";
    const absl::StatusOr<ExitInfo> exit = guest_->Leave();
    ASSERT_TRUE(exit.ok()) << exit.status() << Log();
    EXPECT_EQ(exit->ToString(), "exit code 0") << Log();
    EXPECT_FALSE(absl::StrContains(guest_->vm().log(), "must reset")) << Log();

    report_.figures = {
        {"requests of the raw disk", Requests(disk0)},
        {"requests of the qcow2 disk", Requests(disk1)},
        {"requests that failed", disk0["failed"] + disk1["failed"]},
        {"wrong bytes on disks", disk0["wrong_bytes"] + disk1["wrong_bytes"]},
        {"TCP connections that lived on", whole_streams_},
        {"TCP bytes checked", tcp_checked_},
        {"frames repeated at most", static_cast<uint64_t>(maybe_repeated)},
        {"frames lost at most", static_cast<uint64_t>(maybe_lost)},
        {"vsock connections of the host whole", whole_},
        {"vsock connections of the host reset", reset_},
        {"vsock connections of the guest whole", call["whole"]},
        {"vsock connections of the guest reset", call["reset"] + call["cut"] + call["refused"]},
        {"vsock bytes checked", checked_ + call["bytes"]},
        {"file trees checked", strtoull(tree_count.c_str(), nullptr, 10)},
        {"requests of the entropy source", strtoull(rng_requests.c_str(), nullptr, 10)},
    };
    report_.Print();
  }
  static uint64_t Requests(std::map<std::string, uint64_t>& figures) {
    return figures["reads"] + figures["writes"] + figures["flushes"];
  }

  // Ends a program of the guest that ends by SIGTERM; its last line has the figures.
  std::map<std::string, uint64_t> EndOf(const std::string& program, const std::string& begin) {
    const std::string output = InGuest(absl::StrCat("kill -TERM $", program, "; wait $", program,
                                                    "; echo code=$?; cat /tmp/", program));
    const size_t at = output.rfind(begin);
    std::map<std::string, uint64_t> figures =
        StormFigures(at == std::string::npos ? "" : absl::string_view(output).substr(at));
    EXPECT_TRUE(absl::StrContains(output, "code=0") && !figures.empty()) << output;
    return figures;
  }

  // A loop of the guest's shell ends by itself. Fails the test, with its output, if it does not.
  void AwaitInGuest(const std::string& loop, const std::string& output) {
    const absl::Time deadline = SteadyNow() + kTimeout;
    const std::string is_there =
        absl::StrCat("kill -0 $", loop, " 2> /dev/null && echo yes || true");
    while (InGuest(is_there) == "yes" && SteadyNow() < deadline && !HasFatalFailure()) {
      InGuest("sleep 0.2");
    }
    EXPECT_LT(SteadyNow(), deadline) << loop << InGuest("tail -n 3 " + output + "; ps") << Log();
    fprintf(stderr, "storm: %s: the loop has ended\n", loop.c_str());
  }

  std::string InGuest(const std::string& command) {
    const absl::StatusOr<std::string> output = guest_->Run(command, kTimeout);
    EXPECT_TRUE(output.ok()) << output.status() << Log();
    return output.value_or("");
  }
  std::string Log() const {
    constexpr size_t kEnd = 8000;
    const std::string& log = guest_->vm().log();
    return absl::StrCat("\n...", log.size() > kEnd ? log.substr(log.size() - kEnd) : log);
  }

  const std::string folder_ = MakeTempFolder();
  const std::string qcow_ = folder_ + "/qcow2";
  const std::string shared_ = folder_ + "/shared";
  const std::string vsock_ = folder_ + "/v";
  const std::string control_ = folder_ + "/vm.sock";
  const VmClient client_{control_};
  std::unique_ptr<EchoServer> server_;
  std::unique_ptr<GuestShell> guest_;
  std::vector<std::thread> loads_;
  std::atomic<bool> ending_{false};
  std::atomic<uint64_t> tcp_checked_{0};
  std::atomic<uint64_t> whole_streams_{0};
  uint64_t streams_ = 0;
  std::atomic<uint64_t> checked_{0};
  std::atomic<uint64_t> whole_{0};
  std::atomic<uint64_t> reset_{0};
  EverythingReport report_;
};

TEST_F(LinuxEverythingStormTest, DeathsAndHangsOfAllPartsLoseOnlyWhatIsCounted) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  ASSERT_NO_FATAL_FAILURE(StartLoads());
  ASSERT_NO_FATAL_FAILURE(Storm(EverythingKills()));
  ASSERT_NO_FATAL_FAILURE(Finish());
}

}  // namespace
}  // namespace bulkhead::integration
