// `vmctl device link`: the guest loses and gets its carrier, and each process of the device knows.
// In a network namespace of the test's own, which needs the right to make one, and /dev/net/tun.

#include <signal.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(1);

// The device's process is another one than `pid`, and serves.
void AwaitOtherProcess(const VmClient& client, pid_t pid) {
  const absl::Time deadline = absl::Now() + kTimeout;
  while (absl::Now() < deadline) {
    const pid_t now = client.PidOf("net0");
    if (now > 0 && now != pid) return;
    absl::SleepFor(absl::Milliseconds(20));
  }
  FAIL() << "no other process comes";
}

TEST(LinkTest, TheGuestHearsOfEachChangeAndARestartKeepsIt) {
  ASSERT_EQ(EnterNetworkNamespace(), "");
  const std::string socket = absl::StrCat(testing::TempDir(), "/vm.sock");
  const std::string config = absl::StrCat(
      "memory: \"32M\" on_reset: EXIT\nkernel { path: \"",
      DataFile("kernel_images/baremetal/guest.elf"),
      "\" cmdline: \"run=net_link changes=2\" }\ndevices { name: \"console\" binary: ",
      "\"uart16550\" resources { name: \"console\" console { standard_streams: true } } }\n",
      "devices { name: \"net0\" binary: \"virtio_net\" restart { min_backoff: \"1ms\" } ",
      "resources { name: \"tap\" tap {} } }\n");
  absl::StatusOr<std::unique_ptr<VmProcess>> started = VmProcess::Start(
      {"--config=" + WriteTempFile("vm.textproto", config), "--control=" + socket});
  ASSERT_TRUE(started.ok()) << started.status();
  VmProcess& vm = **started;
  ASSERT_TRUE(vm.WaitForOutput("link up\r\n", kTimeout).ok()) << vm.log();
  const VmClient client(socket);
  EXPECT_EQ(client.GetDevice("net0")->link(), "up");
  EXPECT_EQ(client.GetDevice("console")->link(), "");
  EXPECT_EQ(client.SetDeviceLink("console", false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(client.SetDeviceLink("net9", false).status().code(), absl::StatusCode::kNotFound);

  const absl::StatusOr<v1::Device> down = client.SetDeviceLink("net0", false);
  ASSERT_TRUE(down.ok()) << down.status();
  EXPECT_EQ(down->link(), "down");
  ASSERT_TRUE(vm.WaitForOutput("link down\r\n", kTimeout).ok()) << vm.log();
  const pid_t pid = client.PidOf("net0");
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  ASSERT_NO_FATAL_FAILURE(AwaitOtherProcess(client, pid));
  EXPECT_EQ(client.GetDevice("net0")->link(), "down");
  // The guest ends after two changes: had the restart told it of one, this would be a third.
  ASSERT_TRUE(client.SetDeviceLink("net0", true).ok());
  const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << vm.output() << vm.log();
  EXPECT_EQ(vm.output().substr(vm.output().find("link up")),
            "link up\r\nlink down\r\nlink up\r\nBULKHEAD-PASS\r\n")
      << vm.log();
}

}  // namespace
}  // namespace bulkhead::integration
