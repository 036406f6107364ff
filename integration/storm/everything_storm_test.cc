// All devices of a bare-metal guest under load at once (its program everything_storm), while their
// processes and the back end of one are killed and stopped: no request fails, no byte is wrong,
// each frame that is lost or repeated was counted, vsock connections are reset and none hangs. In a
// network namespace of the test's own.
//
// --kills=200 is the long form: see CONTRIBUTING.md.

#include <net/if.h>
#include <stdint.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
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
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/net/storm_peer.h"
#include "integration/storm/disk_storm_report.h"
#include "integration/storm/disturber.h"
#include "integration/storm/everything.h"
#include "integration/vhost_user/back_ends.h"
#include "integration/vsock/host_end.h"
#include "kernel_images/baremetal/lib/net_storm_frame.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);
constexpr char kTap[] = "storm0";
constexpr uint32_t kEchoPort = 7;
constexpr uint32_t kEndPort = 9;
constexpr uint32_t kHostPort = 5000;
constexpr int kVsockClients = 2;
constexpr uint64_t kPage = 4096;
const std::vector<std::string> kDevices = {"console", "disk0", "disk1",  "net0",
                                           "vsock0",  "rng0",  "balloon"};

class EverythingStormTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }
  ~EverythingStormTest() override {
    EndLoads();
    vm_.reset();
    server_.reset();
    for (const char* name : {"/raw", "/qcow2", "/copy", "/v_5000"}) {
      unlink((folder_ + name).c_str());
    }
  }

  void Start() {
    MakeFile(raw_, kDiskStormBytes);
    MakeQcow(qcow_, kDiskStormBytes);
    server_ = std::make_unique<EchoServer>(absl::StrCat(vsock_, "_", kHostPort));
    const std::string config = absl::StrCat(
        "memory: \"64M\" on_reset: EXIT\nkernel { path: \"",
        DataFile("kernel_images/baremetal/guest.elf"),
        "\" cmdline: \"run=everything_storm until_key=1 depth=8 control=1 event_index=1 ",
        "patience=300000000000\" }\n", StormConsole(),
        StormDevice("disk0", "virtio_blk",
                    absl::StrCat("resources { name: \"disk\" file { path: \"", raw_, "\" } }")),
        StormQcowDisk("disk1", qcow_),
        StormDevice("net0", "virtio_net",
                    absl::StrCat("resources { name: \"tap\" tap { name: \"", kTap, "\" } }")),
        StormDevice("vsock0", "virtio_vsock",
                    absl::StrCat("arg: \"--cid=42\" resources { name: \"host\" vsock { socket: \"",
                                 vsock_, "\" } }")),
        StormDevice("rng0", "virtio_rng", ""),
        StormDevice("balloon", "virtio_balloon", "resources { name: \"target\" balloon {} }"));
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {"--config=" + WriteTempFile("vm.textproto", config), "--control=" + control_});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    for (const char* text : {"disk 0: storm begins", "disk 1: storm begins", "VSOCK ready",
                             "\nready", "balloon ready", "rng ready"}) {
      ASSERT_TRUE(Await([&] { return absl::StrContains(vm_->output(), text); })) << text << Logs();
    }
    StartLoads();
  }

  // What the host does meanwhile. Each thread has something to do until EndLoads().
  void StartLoads() {
    // A guest that waits for a device's register takes no frames meanwhile: no more may be on their
    // way than it has buffers.
    peer_.emplace(kTap, /*patience=*/absl::Seconds(2));
    loads_.emplace_back([this] {
      while (!ending_) peer_->Run(absl::Milliseconds(50), [] { return false; });
    });
    for (uint32_t client = 0; client < kVsockClients; ++client) {
      loads_.emplace_back([this, client] {
        for (uint32_t i = 0; !ending_; ++i) {
          const UniqueFd fd = ConnectToGuest(vsock_, kEchoPort);
          const bool is_whole = fd.ok() && CheckEcho(fd, 50'000, client * 1000 + i, checked_);
          ++(is_whole ? whole_ : reset_);
        }
      });
    }
    loads_.emplace_back([this] {
      while (!ending_) {
        EXPECT_TRUE(client_.SetBalloon((2 + ++targets_ % 50) * kPage).ok());
        absl::SleepFor(absl::Milliseconds(100));
      }
    });
  }
  void EndLoads() {
    ending_ = true;
    for (std::thread& load : loads_) load.join();
    loads_.clear();
  }

  void Storm(uint64_t kills) {
    std::vector<DisturbedPart> parts;
    for (const std::string& name : kDevices) {
      parts.push_back({.name = name, .find = [this, name] { return client_.PidOf(name); }});
    }
    parts.push_back({.name = "disk1's back end",
                     .find = [this] { return ProcessOf(kStorageDaemon, qcow_); },
                     .is_supervised = false});
    const absl::Time begin = SteadyNow();
    Disturber disturber(parts, {.limit = kills, .seed = EverythingSeed()});
    const absl::Duration limit = kTimeout + kills * absl::Seconds(20);
    EXPECT_TRUE(Await([&] { return disturber.hits() >= kills || HasFailure(); }, limit))
        << disturber.hits() << " hits" << Logs();
    disturber.Stop();
    report_.parts = disturber.parts();
    report_.duration = SteadyNow() - begin;
    ASSERT_FALSE(HasFailure()) << Logs();
    ASSERT_EQ(disturber.hits(), kills);
  }

  // All goes on; then each load ends, and says what it has done.
  void Finish() {
    Pump(absl::Seconds(2));
    EndLoads();
    ASSERT_FALSE(Failed()) << Logs();
    ExpectWholeEcho(vsock_, kEchoPort, 50'000, checked_);
    const uint64_t frames = peer_->count().frames + 50;
    peer_->Run(kTimeout, [&] { return peer_->count().frames >= frames; });
    EXPECT_GE(peer_->count().frames, frames) << Logs();
    const double maybe_lost = client_.DeviceMetric("net0", "maybe_lost_total");
    const double maybe_repeated = client_.DeviceMetric("net0", "maybe_repeated_total");
    std::map<std::string, uint64_t> deaths;
    for (const std::string& name : kDevices) {
      const absl::StatusOr<v1::Device> device = client_.GetDevice(name);
      ASSERT_TRUE(device.ok()) << device.status();
      deaths[name] = device->generation() - 1;
    }

    ASSERT_TRUE(vm_->Type("q").ok());
    const std::string disk0 = AwaitLine("disk 0: storm ends");
    const std::string disk1 = AwaitLine("disk 1: storm ends");
    const std::string rng = AwaitLine("rng requests=");
    std::string net;
    for (int i = 0; i < 100 && net.empty(); ++i) {
      peer_->Send(guest::kStormStop);
      Pump(absl::Milliseconds(200));
      if (absl::StrContains(vm_->output(), "\nsent ")) net = AwaitLine("\nsent ");
    }
    ASSERT_TRUE(client_.SetBalloon(kPage).ok());
    const std::string balloon = AwaitLine("balloon rounds=");
    UniqueFd end;
    for (int i = 0; i < 3 && !end.ok(); ++i) end = ConnectToGuest(vsock_, kEndPort);
    end.reset();
    const std::string vsock = AwaitLine("VSOCK accepted=");
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status() << Logs();
    EXPECT_EQ(exit->ToString(), "exit code 0") << Logs();
    EXPECT_TRUE(absl::StrContains(vm_->output(), "BULKHEAD-PASS")) << Logs();

    ReadQcow(qcow_, copy_);
    ExpectDisk(raw_, disk0);
    ExpectDisk(copy_, disk1);
    std::map<std::string, uint64_t> net_figures = StormFigures(net);
    std::map<std::string, uint64_t> vsock_figures = StormFigures(vsock);
    const guest::StormCount& count = peer_->count();
    // From the guest each frame at least once, to it at most once.
    EXPECT_EQ(peer_->damaged(), 0u);
    EXPECT_EQ(peer_->kernel_drops(), 0u);
    EXPECT_EQ(count.lost, 0u);
    EXPECT_LE(count.repeated, maybe_repeated);
    EXPECT_EQ(net_figures["repeated"], 0u);
    EXPECT_LE(net_figures["lost"], maybe_lost);
    EXPECT_LE(maybe_lost, deaths["net0"]);
    EXPECT_LE(maybe_repeated, deaths["net0"]);
    EXPECT_LE(vsock_figures["transport_resets"], deaths["vsock0"]);
    for (const DisturbedPart& part : report_.parts) {
      if (part.is_supervised) {
        EXPECT_GE(deaths[part.name], part.kills + part.hangs) << part.name;
      }
    }
    EXPECT_FALSE(absl::StrContains(vm_->log(), "must reset")) << Logs();
    report_.figures = {
        {"requests of the raw disk", StormFigures(disk0)["requests"]},
        {"requests of the qcow2 disk", StormFigures(disk1)["requests"]},
        {"frames from the guest", count.frames},
        {"frames from the guest lost", count.lost},
        {"frames from the guest repeated", count.repeated},
        {"of them counted at most", static_cast<uint64_t>(maybe_repeated)},
        {"frames to the guest", net_figures["received"]},
        {"frames to the guest lost", net_figures["lost"]},
        {"counted as lost at most", static_cast<uint64_t>(maybe_lost)},
        {"frames to the guest repeated", net_figures["repeated"]},
        {"vsock connections of the host whole", whole_},
        {"vsock connections of the host reset", reset_},
        {"vsock connections of the guest", vsock_figures["connected"]},
        {"vsock transport resets", vsock_figures["transport_resets"]},
        {"vsock bytes checked", checked_ + vsock_figures["checked"]},
        {"rounds of the balloon", StormFigures(balloon)["rounds"]},
        {"requests of the entropy source", StormFigures(rng)["requests"]},
    };
    for (const auto& [name, value] : report_.figures) {
      const bool may_be_none = absl::StrContains(name, "lost") || absl::StrContains(name, "rep") ||
                               absl::StrContains(name, "reset") || absl::StrContains(name, "most");
      if (!may_be_none) {
        EXPECT_GT(value, 0u) << name;
      }
    }
    report_.Print();
    EXPECT_EQ(if_nametoindex(kTap), 0u) << "the TAP is still there";
    EXPECT_NE(access(vsock_.c_str(), F_OK), 0) << "the socket is left over";
  }

  // The disk holds the newest version of each block.
  void ExpectDisk(const std::string& path, const std::string& line) {
    std::map<std::string, uint64_t> figures = StormFigures(line);
    const absl::StatusOr<uint64_t> sum =
        SumOfDiskVersions(path, static_cast<uint32_t>(figures["newest"]));
    ASSERT_TRUE(sum.ok()) << sum.status();
    EXPECT_EQ(*sum, figures["versions"]) << line;
    EXPECT_EQ(figures["errors"], 0u);
  }

  bool Failed() const { return absl::StrContains(vm_->output(), "BULKHEAD-FAIL"); }
  // Reads what comes, so that nothing waits for us.
  void Pump(absl::Duration time) {
    const absl::Time end = SteadyNow() + time;
    absl::Duration left = time;
    for (; left > absl::ZeroDuration() && !has_ended_; left = end - SteadyNow()) {
      has_ended_ = absl::IsAborted(vm_->WaitForOutput("\n", left).status());
    }
  }
  template <typename Condition>
  bool Await(Condition condition, absl::Duration timeout = kTimeout) {
    const absl::Time deadline = SteadyNow() + timeout;
    while (!condition()) {
      if (SteadyNow() > deadline || Failed() || has_ended_) return false;
      Pump(absl::Milliseconds(20));
    }
    return true;
  }
  // The line that begins so, whole; fails the test if it does not come.
  std::string AwaitLine(absl::string_view begin) {
    size_t at = 0;
    size_t end = 0;
    const std::string start(begin);
    const auto is_there = [&] {
      at = vm_->output().find(start);
      end = at == std::string::npos ? at : vm_->output().find('\n', at + begin.size());
      return end != std::string::npos;
    };
    if (Await(is_there)) return vm_->output().substr(at, end - at);
    ADD_FAILURE() << "no line \"" << begin << "\"" << Logs();
    return "";
  }
  std::string Logs() const {
    constexpr size_t kEnd = 8000;
    const std::string& log = vm_->log();
    return absl::StrCat("\n", vm_->output(), "\n...",
                        log.size() > kEnd ? log.substr(log.size() - kEnd) : log);
  }

  const std::string folder_ = MakeTempFolder();
  const std::string raw_ = folder_ + "/raw";
  const std::string qcow_ = folder_ + "/qcow2";
  const std::string copy_ = folder_ + "/copy";  // of what the qcow2 image holds
  const std::string vsock_ = folder_ + "/v";
  const std::string control_ = folder_ + "/vm.sock";
  const VmClient client_{control_};
  std::unique_ptr<EchoServer> server_;
  std::unique_ptr<VmProcess> vm_;
  bool has_ended_ = false;  // no more output comes
  std::optional<StormPeer> peer_;
  std::vector<std::thread> loads_;
  std::atomic<bool> ending_{false};
  std::atomic<uint64_t> checked_{0};
  std::atomic<uint64_t> whole_{0};
  std::atomic<uint64_t> reset_{0};
  uint64_t targets_ = 0;
  EverythingReport report_;
};

TEST_F(EverythingStormTest, WithoutDeathsNothingIsLostOrReset) {
  ASSERT_NO_FATAL_FAILURE(Start());
  Pump(absl::Seconds(5));
  ASSERT_NO_FATAL_FAILURE(Finish());
  EXPECT_EQ(reset_, 0u);
}

TEST_F(EverythingStormTest, DeathsAndHangsOfAllPartsLoseOnlyWhatIsCounted) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(Storm(EverythingKills()));
  ASSERT_NO_FATAL_FAILURE(Finish());
}

}  // namespace
}  // namespace bulkhead::integration
