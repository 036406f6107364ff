#include "integration/recovery/device_deaths.h"

#include <unistd.h>

#include <fstream>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/testing/run_command.h"
#include "gtest/gtest.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);
constexpr char kTyped[] = "every byte of this, once and in order.";  // as use_devices expects it
constexpr int kBoots = 2;

// What the guest prints if it notices nothing.
std::string WholeOutput(int rounds) {
  const std::string round = "disk\r\nentropy\r\ntype\r\ntyped\r\n";
  std::string text;
  for (int boot = 1; boot <= kBoots; ++boot) {
    absl::StrAppend(&text, "boot ", boot, "\r\n",
                    absl::StrJoin(std::vector<std::string>(rounds, round), "reset\r\n"));
  }
  return absl::StrCat(text, "BULKHEAD-PASS\r\n");
}

int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

std::string BinaryPath(const std::string& binary) {
  return DataFile(absl::StrCat("devices/", binary, "/", binary));
}

// The configuration of the VM.
std::string WriteFiles(const DeviceDeaths& deaths) {
  std::vector<std::string> spec;
  for (const std::string& point : deaths.points) {
    const bool has_count = point.find(':') != std::string::npos;
    spec.push_back(absl::StrCat(point, has_count ? ":" : ":1:", spec.size() + 2));
  }
  const std::string path = absl::StrCat(testing::TempDir(), "/vm.textproto");
  std::ofstream out(path);
  out << "memory: \"32M\"\nkernel { path: \"" << DataFile("kernel_images/baremetal/guest.elf")
      << "\" cmdline: \"run=use_devices rounds="
      << deaths.rounds
      // Several processes may die one after the other before a request is served.
      << " patience=900000000000\" }\n";
  for (const UsedDevice& device : UsedDevices()) {
    const bool dies = device.name == deaths.device;
    out << "devices {\n  name: \"" << device.name << "\" binary: \""
        << (dies ? deaths.binary : device.binary)
        << "\"\n  restart { max_crashes: -1 min_backoff: \"1ms\" max_backoff: \"1ms\" }\n";
    if (dies) {
      out << "  access_timeout: \"1h\"\n  arg: \"--crash_point=" << absl::StrJoin(spec, ",")
          << "\"\n"
          << deaths.config << "\n";
    } else {
      out << ResourceOf(device.name) << "\n";
    }
    out << "}\n";
  }
  return path;
}

}  // namespace

std::vector<UsedDevice> UsedDevices() {
  return {{"console", "uart16550"}, {"disk0", "virtio_blk"}, {"rng0", "virtio_rng"}};
}

std::string DiskImage() { return absl::StrCat(testing::TempDir(), "/disk.img"); }

void MakeDiskImage() {
  unlink(DiskImage().c_str());
  std::ofstream(DiskImage()).flush();
  EXPECT_EQ(truncate(DiskImage().c_str(), 1 << 20), 0);
}

std::string ResourceOf(const std::string& device) {
  if (device == "console")
    return "resources { name: \"console\" console { standard_streams: true } }";
  if (device != "disk0") return "";
  return absl::StrCat("resources { name: \"disk\" file { path: \"", DiskImage(), "\" } }");
}

std::vector<std::string> CrashPointsOf(const std::string& binary) {
  const std::string list = OutputOf(absl::StrCat(BinaryPath(binary), " --crash_point=list"));
  return absl::StrSplit(list, '\n', absl::SkipEmpty());
}

DeathsResult RunUnderDeaths(const DeviceDeaths& deaths) {
  const std::string socket = absl::StrCat(testing::TempDir(), "/vm.sock");
  absl::StatusOr<std::unique_ptr<VmProcess>> started =
      VmProcess::Start({"--config=" + WriteFiles(deaths), "--control=" + socket});
  if (!started.ok()) {
    ADD_FAILURE() << started.status();
    return {};
  }
  VmProcess& vm = **started;
  const VmClient client(socket);
  EXPECT_TRUE(vm.WaitForOutput("boot 1\r\n", kTimeout).ok()) << vm.log();
  EXPECT_TRUE(client.KillProcessOf(deaths.device));
  if (deaths.once_killed) deaths.once_killed(vm, client);
  for (int i = 0; i < kBoots * deaths.rounds; ++i) {
    const absl::StatusOr<std::string> before = vm.WaitForOutput("type\r\n", kTimeout);
    EXPECT_TRUE(before.ok()) << before.status() << vm.log();
    if (!before.ok()) return {};
    EXPECT_TRUE(vm.Type(kTyped).ok());
  }
  const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(kTimeout);
  EXPECT_TRUE(exit.ok()) << exit.status() << vm.log();
  if (!exit.ok()) return {};
  EXPECT_EQ(exit->ToString(), "exit code 0") << vm.log();
  EXPECT_EQ(vm.output(), WholeOutput(deaths.rounds)) << vm.log();
  // "device 'disk0' (process 7): killed by ...", or that it ended during its start.
  const int died = Count(vm.log(), absl::StrCat("error: device '", deaths.device, "' ("));
  return {.died = died, .log = vm.log()};
}

}  // namespace bulkhead::integration
