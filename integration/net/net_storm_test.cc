// A network device under load, whose process is killed again and again: no frame is damaged, and at
// most one a kill and queue is lost or repeated, as the device's metrics say. In a network
// namespace of the test's own, which needs the right to make one, and /dev/net/tun.

#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/run_command.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/net/storm_peer.h"
#include "kernel_images/baremetal/lib/net_storm_frame.h"

namespace bulkhead::integration {
namespace {

using guest::StormCount;

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr char kTap[] = "storm0";

class NetStormTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }

  // A VM with the device, whose process has a crash point armed if one is given.
  void Start(const std::string& orders, const std::string& crash_point = "",
             const std::string& flags = "") {
    const std::string config = absl::StrCat(
        "memory: \"32M\" on_reset: EXIT\nkernel { path: \"",
        DataFile("kernel_images/baremetal/guest.elf"), "\" cmdline: \"run=net_storm ", orders,
        "\" }\ndevices { name: \"console\" binary: \"uart16550\" resources { name: \"console\" ",
        "console { standard_streams: true } } }\n",
        "devices { name: \"net0\" binary: \"virtio_net\" arg: \"--crash_point=", crash_point, "\" ",
        flags, " restart { max_crashes: -1 min_backoff: \"1ms\" max_backoff: \"1ms\" } ",
        "resources { name: \"tap\" tap { name: \"", kTap, "\" } } }\n");
    const std::string socket = absl::StrCat(testing::TempDir(), "/vm.sock");
    absl::StatusOr<std::unique_ptr<VmProcess>> started = VmProcess::Start(
        {"--config=" + WriteTempFile("vm.textproto", config), "--control=" + socket});
    ASSERT_TRUE(started.ok()) << started.status();
    vm = *std::move(started);
    ASSERT_TRUE(vm->WaitForOutput("ready\r\n", kTimeout).ok()) << vm->log();
    client.emplace(socket);
    peer.emplace(kTap);
  }

  // User and system time of the device's process.
  absl::Duration CpuTime() {
    clockid_t clock;
    timespec time = {};
    EXPECT_EQ(clock_getcpuclockid(client->PidOf("net0"), &clock), 0);
    EXPECT_EQ(clock_gettime(clock, &time), 0);
    return absl::DurationFromTimespec(time);
  }

  // Kills the process that serves, another one each time.
  void Kill() {
    const absl::Time deadline = SteadyNow() + kTimeout;
    while (SteadyNow() < deadline) {
      const pid_t pid = client->PidOf("net0");
      // What the VM has said may be over by now.
      if (pid > 0 && pid != last_killed && kill(pid, SIGKILL) == 0) {
        last_killed = pid;
        return;
      }
      peer->Run(absl::Milliseconds(2), [] { return false; });
    }
    FAIL() << "no other process comes: " << vm->log();
  }

  void AwaitFrames(uint64_t more) {
    const uint64_t end = peer->count().frames + more;
    peer->Run(kTimeout, [&] { return peer->count().frames >= end; });
    EXPECT_GE(peer->count().frames, end) << vm->log();
  }

  // Ends the guest, and compares what both sides have counted with the device's metrics.
  void Finish(int deaths) {
    AwaitFrames(500);  // it works, and what was on its way arrives
    const double maybe_lost = client->DeviceMetric("net0", "maybe_lost_total");
    const double maybe_repeated = client->DeviceMetric("net0", "maybe_repeated_total");
    EXPECT_GE(maybe_lost, 0);
    EXPECT_LE(maybe_lost, deaths);
    EXPECT_LE(maybe_repeated, deaths);
    absl::StatusOr<std::string> end = absl::UnknownError("");
    for (int i = 0; i < 100 && !end.ok(); ++i) {
      peer->Send(guest::kStormStop);
      end = vm->WaitForOutput("BULKHEAD-", absl::Milliseconds(200));
    }
    const absl::StatusOr<ExitInfo> exit = vm->WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->ToString(), "exit code 0") << vm->output() << vm->log();
    const size_t line = vm->output().find("sent ");
    ASSERT_NE(line, std::string::npos) << vm->output();
    unsigned long long sent = 0, received = 0, lost = 0, repeated = 0;  // NOLINT
    ASSERT_EQ(sscanf(vm->output().c_str() + line, "sent %llu received %llu lost %llu repeated %llu",
                     &sent, &received, &lost, &repeated),
              4)
        << vm->output();
    const StormCount& count = peer->count();
    printf(
        "%d deaths: the guest sent %llu frames, %d lost and %d repeated; it received %llu, %d "
        "lost and %d repeated; by the metrics at most %g lost and %g repeated\n",
        deaths, sent, static_cast<int>(count.lost), static_cast<int>(count.repeated), received,
        static_cast<int>(lost), static_cast<int>(repeated), maybe_lost, maybe_repeated);
    EXPECT_EQ(peer->damaged(), 0u);
    EXPECT_EQ(peer->kernel_drops(), 0u);
    // From the guest: each at least once.
    EXPECT_EQ(count.lost, 0u);
    EXPECT_LE(count.repeated, maybe_repeated);
    // To the guest: each at most once.
    EXPECT_EQ(repeated, 0u);
    EXPECT_LE(lost, maybe_lost);
    EXPECT_EQ(if_nametoindex(kTap), 0u) << "the TAP is still there";
  }

  void Storm(const std::string& orders, int kills) {
    ASSERT_NO_FATAL_FAILURE(Start(orders));
    for (int i = 0; i < kills; ++i) {
      ASSERT_NO_FATAL_FAILURE(Kill());
      // The next one at any moment: at its work, or at its start.
      peer->Run(absl::Microseconds(997 * (i * 7 % 40)), [] { return false; });
    }
    Finish(kills);
  }

  std::unique_ptr<VmProcess> vm;
  std::optional<VmClient> client;
  std::optional<StormPeer> peer;
  pid_t last_killed = 0;
};

TEST_F(NetStormTest, WithoutKillsEachFrameArrivesOnce) { Storm("control=1", 0); }

TEST_F(NetStormTest, KillsLoseOrRepeatOnlyWhatIsCounted) { Storm("event_index=1 control=1", 100); }

// Two buffers a frame, and enough of them for all frames on their way: without, a guest that gets
// no processor for some 20 ms loses frames for lack of room, which no death is to blame for.
TEST_F(NetStormTest, KillsLoseOrRepeatOnlyWhatIsCountedWithMergeableBuffers) {
  Storm("mergeable=1 buffer=768", 100);
}

// Both sides have more to send than they may. Each frame to the guest is paid for by its limit, and
// each from it, so neither can be ahead of the clock, whatever becomes of the process.
TEST_F(NetStormTest, RateLimitsHoldInBothDirectionsOverDeathsAndChange) {
  constexpr int kRate = 200;
  constexpr int kBurst = 20;
  ASSERT_NO_FATAL_FAILURE(
      Start("control=1", "",
            absl::StrCat("arg: \"--pps=", kRate, "\" arg: \"--pps_burst=", kBurst, "\"")));
  const absl::Time begin = SteadyNow();
  const auto allowed = [&](absl::Time now) {
    return kBurst + kRate * absl::ToDoubleSeconds(now - begin) + 2;
  };
  for (int i = 0; i < 4; ++i) {
    peer->Run(absl::Milliseconds(500), [] { return false; });
    EXPECT_LE(peer->count().frames, allowed(SteadyNow())) << i;
    EXPECT_LE(peer->acknowledged(), allowed(SteadyNow())) << i;
    ASSERT_NO_FATAL_FAILURE(Kill());
  }
  AwaitFrames(100);
  EXPECT_LE(peer->count().frames, allowed(SteadyNow()));
  EXPECT_GT(client->DeviceMetric("net0", "send_limited_total"), 0);
  EXPECT_GT(client->DeviceMetric("net0", "receive_limited_total"), 0);
  // Held back, it sleeps: the peer's window is full, and so is the guest's.
  const absl::Duration before = CpuTime();
  peer->Run(absl::Seconds(2), [] { return false; });
  EXPECT_LT(CpuTime() - before, absl::Seconds(1));
  v1::LimitDeviceRequest limit;
  limit.set_name("net0");
  limit.set_operations_per_second(1);
  const pid_t pid = client->PidOf("net0");
  EXPECT_EQ(client->LimitDevice(limit).status().code(), absl::StatusCode::kFailedPrecondition)
      << "it has no such limit";
  EXPECT_EQ(client->PidOf("net0"), pid);
  limit.clear_operations_per_second();
  limit.set_frames_per_second(0);
  const absl::StatusOr<v1::Device> unlimited = client->LimitDevice(limit);
  ASSERT_TRUE(unlimited.ok()) << unlimited.status();
  const absl::Time change = SteadyNow();
  AwaitFrames(5 * kRate);  // with the old limit: five seconds
  printf("without a limit %d frames took %s\n", 5 * kRate,
         absl::FormatDuration(SteadyNow() - change).c_str());
  Finish(4);
}

// The second process dies at the point; the third one goes on.
TEST_F(NetStormTest, ADeathAtAnyCrashPointLosesOrRepeatsOnlyWhatIsCounted) {
  const std::string binary = DataFile("devices/virtio_net/virtio_net");
  const std::vector<std::string> points =
      absl::StrSplit(OutputOf(binary + " --crash_point=list"), '\n', absl::SkipEmpty());
  int tried = 0;
  for (const std::string& point : points) {
    // Those of register accesses and resets are the same in all devices: crash_points_test.
    const bool is_here = absl::StartsWith(point, "net_") || absl::StartsWith(point, "queue_") ||
                         absl::StartsWith(point, "attach_") ||
                         absl::StartsWith(point, "after_doorbell_");
    if (!is_here || absl::StartsWith(point, "queue_begin_")) continue;
    SCOPED_TRACE(point);
    ++tried;
    ASSERT_NO_FATAL_FAILURE(Start("control=1", point + ":1:2"));
    AwaitFrames(100);
    ASSERT_NO_FATAL_FAILURE(Kill());
    const absl::Time deadline = SteadyNow() + kTimeout;
    while (client->GenerationOf("net0") < 3 && SteadyNow() < deadline) {
      peer->Run(absl::Milliseconds(20), [] { return false; });
    }
    EXPECT_EQ(client->GenerationOf("net0"), 3u) << "it was not reached";
    ASSERT_NO_FATAL_FAILURE(Finish(2));
  }
  EXPECT_GE(tried, 10);
}

}  // namespace
}  // namespace bulkhead::integration
