// Streams between a guest and programs of the host, both ways, through the real vmm and the vsock
// device's process; then the same while that process is killed again and again: connections are
// reset then, but none is left hanging, no byte is wrong, and new ones work.

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/storm/killer.h"
#include "integration/vsock/host_end.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(3);
constexpr uint32_t kEchoPort = 7;
constexpr uint32_t kEndPort = 9;
constexpr uint32_t kHostPort = 5000;

class VsockTest : public testing::Test {
 protected:
  ~VsockTest() override { End(); }

  // A VM whose device restarts without limits, and its host.
  void Start(const std::string& crash_point = "", const std::string& orders = "") {
    server_ = std::make_unique<EchoServer>(absl::StrCat(path_, "_", kHostPort));
    const std::string config = absl::StrCat(
        "memory: \"32M\" on_reset: EXIT\nkernel { path: \"",
        DataFile("kernel_images/baremetal/guest.elf"), "\" cmdline: \"run=vsock_echo ", orders,
        "\" }\n",
        "devices { name: \"console\" binary: \"uart16550\" resources { name: \"console\" ",
        "console { standard_streams: true } } }\n",
        "devices { name: \"vsock0\" binary: \"virtio_vsock\" arg: \"--cid=42\" ",
        "arg: \"--crash_point=", crash_point,
        "\" restart { max_crashes: -1 min_backoff: \"1ms\" max_backoff: \"1ms\" } ",
        "resources { name: \"host\" vsock { socket: \"", path_, "\" } } }\n");
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {"--config=" + WriteTempFile("vm.textproto", config), "--control=" + control_});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("VSOCK ready, cid=42", kTimeout).ok()) << vm_->log();
  }

  void ExpectWhole(size_t bytes) { ExpectWholeEcho(path_, kEchoPort, bytes, checked_); }

  // A client ends the guest, and the vmm removes its socket.
  void Finish() {
    UniqueFd fd;
    for (int i = 0; i < 3 && !fd.ok(); ++i) fd = ConnectToGuest(path_, kEndPort);
    fd.reset();
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status() << vm_->log() << vm_->output();
    EXPECT_EQ(exit->ToString(), "exit code 0") << vm_->log() << vm_->output();
    EXPECT_NE(access(path_.c_str(), F_OK), 0) << "the socket is left over";
    EXPECT_TRUE(absl::StrContains(vm_->output(), "BULKHEAD-PASS")) << vm_->output();
    EXPECT_GT(Figure("checked"), 0u) << vm_->output();
  }
  void End() {
    vm_.reset();
    server_.reset();
    unlink(absl::StrCat(path_, "_", kHostPort).c_str());
  }

  // A figure that the guest has printed.
  uint64_t Figure(absl::string_view name) {
    const size_t at = vm_->output().find(absl::StrCat(" ", name, "="));
    if (at == std::string::npos) return 0;
    return strtoull(vm_->output().c_str() + at + name.size() + 2, nullptr, 10);
  }

  const std::string folder_ = MakeTempFolder();
  const std::string path_ = absl::StrCat(folder_, "/v");
  const std::string control_ = absl::StrCat(folder_, "/vm.sock");
  std::unique_ptr<EchoServer> server_;
  std::unique_ptr<VmProcess> vm_;
  std::atomic<uint64_t> checked_{0};
};

TEST_F(VsockTest, BothSidesConnectAndStream) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ExpectWhole(500'000);
  // Nobody listens there.
  EXPECT_FALSE(ConnectToGuest(path_, 8).ok());
  Finish();
  EXPECT_GE(Figure("echoed"), 500'000u);
  EXPECT_EQ(Figure("transport_resets"), 0u);
  EXPECT_EQ(server_->accepted(), 1);
}

TEST_F(VsockTest, WithoutTheProcessThatConnectsClientsAreServedAndTheGuestIsRefused) {
  ASSERT_NO_FATAL_FAILURE(Start());
  for (int i = 0; i < 1000 && server_->accepted() == 0; ++i) absl::SleepFor(absl::Milliseconds(10));
  ExpectWhole(100'000);
  ASSERT_EQ(kill(vm_->HelperPid("vmm-vsock"), SIGKILL), 0);
  ASSERT_TRUE(vm_->WaitForLog("the guest's connections are refused", kTimeout).ok());
  // Another process, for which the guest connects again.
  ASSERT_TRUE(VmClient(control_).KillProcessOf("vsock0"));
  ExpectWhole(100'000);
  absl::SleepFor(absl::Milliseconds(500));
  Finish();
  EXPECT_GT(Figure("refused"), 0u);
  EXPECT_EQ(server_->accepted(), 1);
}

TEST_F(VsockTest, ConnectionsAreResetAndNewOnesWorkWhileTheProcessIsKilled) {
  ASSERT_NO_FATAL_FAILURE(Start());
  constexpr uint64_t kKills = 20;
  Killer killer(*vm_,
                {.names = {"virtio_vsock"},
                 .min_interval = absl::Milliseconds(20),
                 .max_interval = absl::Milliseconds(400)},
                kKills);
  std::atomic<int> whole{0};
  std::atomic<int> reset{0};
  std::vector<std::thread> clients;
  const absl::Time deadline = absl::Now() + kTimeout;
  for (uint32_t client = 0; client < 3; ++client) {
    clients.emplace_back([&, client] {
      for (uint32_t i = 0; killer.hits() < kKills && absl::Now() < deadline; ++i) {
        const UniqueFd fd = ConnectToGuest(path_, kEchoPort);
        const bool is_whole = fd.ok() && CheckEcho(fd, 50'000, client * 1000 + i, checked_);
        ++(is_whole ? whole : reset);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  killer.Stop();
  EXPECT_EQ(killer.hits(), kKills) << vm_->log();
  ExpectWhole(200'000);
  Finish();
  EXPECT_GT(Figure("transport_resets"), 0u);
  EXPECT_GT(server_->accepted(), 1);
  EXPECT_GT(checked_.load(), 200'000u);
  printf("%d connections whole, %d reset, %lu bytes checked; %s\n", whole.load(), reset.load(),
         checked_.load(), vm_->output().substr(vm_->output().find("VSOCK acc")).c_str());
}

// The second process dies at the point; the third one goes on.
TEST_F(VsockTest, ADeathAtAnyCrashPointResetsConnectionsAndNewOnesWork) {
  const std::string binary = DataFile("devices/virtio_vsock/virtio_vsock");
  const std::vector<std::string> points =
      absl::StrSplit(OutputOf(binary + " --crash_point=list"), '\n', absl::SkipEmpty());
  int tried = 0;
  for (const std::string& point : points) {
    // Those of register accesses and resets are the same in all devices: crash_points_test.
    const bool is_here = absl::StartsWith(point, "vsock_") || absl::StartsWith(point, "queue_") ||
                         absl::StartsWith(point, "attach_") ||
                         absl::StartsWith(point, "after_doorbell_");
    if (!is_here || absl::StartsWith(point, "queue_begin_")) continue;
    SCOPED_TRACE(point);
    ++tried;
    ASSERT_NO_FATAL_FAILURE(Start(point + ":1:2", "event_index=0"));
    ExpectWhole(10'000);
    const VmClient client(control_);
    ASSERT_TRUE(client.KillProcessOf("vsock0"));
    EXPECT_TRUE(client.AwaitGeneration("vsock0", 3)) << "it was not reached";
    ExpectWhole(50'000);
    Finish();
    EXPECT_GT(Figure("transport_resets"), 0u);
    End();
  }
  EXPECT_GE(tried, 10);
}

}  // namespace
}  // namespace bulkhead::integration
