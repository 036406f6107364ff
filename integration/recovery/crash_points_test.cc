// Each device's process dies at each of its crash points, which its binary lists itself, under a
// guest that uses all devices in every way; the guest must not notice.
//
// The first process is killed as soon as the guest works. The second one dies at the point, be it
// in its attachment or later; the third one goes on.

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr char kWorkPolled[] = "after_work_polled";
constexpr char kTyped[] = "every byte of this, once and in order.";  // as use_devices expects it

struct Case {
  std::string device;
  std::string binary;
  std::string point;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.binary << " at " << c.point; }

constexpr struct {
  const char* device;
  const char* binary;
} kDevices[] = {{"console", "uart16550"}, {"disk0", "virtio_blk"}, {"rng0", "virtio_rng"}};

std::string BinaryPath(const std::string& binary) {
  return DataFile(absl::StrCat("devices/", binary, "/", binary));
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const auto& device : kDevices) {
    const std::string command = absl::StrCat(BinaryPath(device.binary), " --crash_point=list");
    FILE* const pipe = popen(command.c_str(), "r");
    char line[128];
    while (pipe != nullptr && fgets(line, sizeof(line), pipe) != nullptr) {
      const std::string point(line, strcspn(line, "\n"));
      // A serial port has no doorbells.
      if (device.binary == std::string("uart16550") && point.rfind("after_doorbell_", 0) == 0)
        continue;
      cases.push_back({device.device, device.binary, point});
    }
    if (pipe != nullptr) pclose(pipe);
  }
  return cases;
}

// What the guest prints if it notices nothing.
std::string WholeOutput() {
  std::string text;
  const std::string round = absl::StrCat("disk\r\nentropy\r\ntype\r\ntyped\r\n");
  for (const char* boot : {"1", "2"}) {
    absl::StrAppend(&text, "boot ", boot, "\r\n", round, "reset\r\n", round);
  }
  return absl::StrCat(text, "BULKHEAD-PASS\r\n");
}

int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

class CrashPointsTest : public testing::TestWithParam<Case> {
 protected:
  // Runs the whole guest while processes of the device die: the first is killed, later ones die at
  // crash points. Returns how many died.
  int DeathsWith(const std::string& spec) {
    WriteFiles(spec);
    const std::string socket = absl::StrCat(testing::TempDir(), "/vm.sock");
    absl::StatusOr<std::unique_ptr<VmProcess>> started =
        VmProcess::Start({"--config=" + config_, "--control=" + socket});
    if (!started.ok()) {
      ADD_FAILURE() << started.status();
      return -1;
    }
    VmProcess& vm = **started;
    EXPECT_TRUE(vm.WaitForOutput("boot 1\r\n", kTimeout).ok()) << vm.log();
    EXPECT_EQ(kill(VmClient(socket).PidOf(GetParam().device), SIGKILL), 0);
    for (int i = 0; i < 4; ++i) {
      const absl::StatusOr<std::string> before = vm.WaitForOutput("type\r\n", kTimeout);
      EXPECT_TRUE(before.ok()) << before.status() << vm.log();
      if (!before.ok()) return -1;
      EXPECT_TRUE(vm.Type(kTyped).ok());
    }
    const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(kTimeout);
    EXPECT_TRUE(exit.ok()) << exit.status();
    if (!exit.ok()) return -1;
    EXPECT_EQ(exit->ToString(), "exit code 0") << vm.log();
    EXPECT_EQ(vm.output(), WholeOutput()) << vm.log();
    // "device 'disk0' (process 7): killed by ...", or that it ended during its start.
    return Count(vm.log(), absl::StrCat("error: device '", GetParam().device, "' ("));
  }

 private:
  void WriteFiles(const std::string& spec) {
    const std::string disk = absl::StrCat(testing::TempDir(), "/disk.img");
    unlink(disk.c_str());
    std::ofstream(disk).flush();
    ASSERT_EQ(truncate(disk.c_str(), 1 << 20), 0);
    config_ = absl::StrCat(testing::TempDir(), "/vm.textproto");
    std::ofstream out(config_);
    out << "memory: \"32M\"\nkernel { path: \"" << DataFile("kernel_images/baremetal/guest.elf")
        << "\" cmdline: \"run=use_devices\" }\n";
    for (const auto& device : kDevices) {
      out << "devices {\n  name: \"" << device.device << "\" binary: \"" << device.binary
          << "\"\n  restart { max_crashes: -1 min_backoff: \"1ms\" max_backoff: \"1ms\" }\n";
      if (device.device == GetParam().device) {
        out << "  arg: \"--crash_point=" << spec << "\"\n";
        // On a busy host the guest does not always ask for more within the default.
        if (GetParam().point == kWorkPolled) out << "  max_poll: \"10ms\"\n";
      }
      if (device.device == std::string("console")) {
        out << "  resources { name: \"console\" console { standard_streams: true } }\n";
      } else if (device.device == std::string("disk0")) {
        out << "  resources { name: \"disk\" file { path: \"" << disk << "\" } }\n";
      }
      out << "}\n";
    }
  }

  std::string config_;
};

TEST_P(CrashPointsTest, TheGuestNoticesNothing) {
  // The third process in the middle of the work, where it comes by there so often.
  const std::string& point = GetParam().point;
  const int deaths = DeathsWith(absl::StrCat(point, ":1:2,", point, ":7:3"));
  EXPECT_GE(deaths, 2) << "it was not reached";
  EXPECT_LE(deaths, 3);
}

INSTANTIATE_TEST_SUITE_P(All, CrashPointsTest, testing::ValuesIn(AllCases()), [](const auto& info) {
  return absl::StrCat(info.param.binary, "_", info.param.point);
});

}  // namespace
}  // namespace bulkhead::integration
