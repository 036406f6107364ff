// What clients of a VM's sockets may do, with the programs as they are installed.

#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

// A VM with an entropy source and both sockets, in a folder of its own.
class AccessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/access-XXXXXX";  // short enough for sockets
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    vm_.reset();
    // The killed VM's init may remove its sockets at the same time.
    std::error_code error;
    for (int i = 0; i < 1000; ++i) {
      std::filesystem::remove_all(folder_, error);
      if (!error) return;
      absl::SleepFor(absl::Milliseconds(1));
    }
    ADD_FAILURE() << folder_ << ": " << error.message();
  }

  void StartVm(const std::string& further_fields = "") {
    const std::string config = WriteTempFile(
        "access.textproto",
        absl::StrCat("name: 'web' memory: '64M' cpus: 1 kernel { path: '",
                     DataFile("kernel_images/baremetal/guest.elf"), "' cmdline: 'run=idle' }",
                     " devices { name: 'rng0' binary: 'virtio_rng' }", " control_socket: '",
                     Control(), "' monitor_socket: '", Monitor(), "' ", further_fields));
    absl::StatusOr<std::unique_ptr<VmProcess>> vm =
        VmProcess::Start({"--config", config, "--console=stdio"});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("idle", kTimeout).ok()) << vm_->log();
  }

  std::string Control() const { return absl::StrCat(folder_, "/web.sock"); }
  std::string Monitor() const { return absl::StrCat(folder_, "/monitor"); }
  static CommandResult Vmctl(const std::string& socket, const std::string& arguments) {
    return RunCommand(
        absl::StrCat(DataFile("tools/vmctl/vmctl"), " ", arguments, " --socket ", socket));
  }

  std::string folder_;
  std::unique_ptr<VmProcess> vm_;
};

TEST_F(AccessTest, AMonitorReadsAndChangesNothing) {
  ASSERT_NO_FATAL_FAILURE(StartVm("monitor_group: '0'"));
  struct stat file;
  ASSERT_EQ(stat(Monitor().c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0660u);
  for (const char* command :
       {"status", "devices", "device show rng0", "pci", "events", "metrics", "status --json"}) {
    const CommandResult result = Vmctl(Monitor(), command);
    EXPECT_EQ(result.exit_code, 0) << command << ": " << result.output;
  }
  EXPECT_THAT(Vmctl(Monitor(), "metrics").output,
              HasSubstr("bulkhead_vm_refused_clients_total{socket=\"control\"} 0"));
  for (const char* command :
       {"pause", "resume", "wake", "shutdown", "stop", "device restart rng0", "device reset rng0",
        "device stop rng0", "device start rng0", "console </dev/null"}) {
    const CommandResult result = Vmctl(Monitor(), command);
    EXPECT_EQ(result.exit_code, 1) << command << ": " << result.output;
    EXPECT_THAT(result.output,
                HasSubstr(absl::StrCat("the monitor socket is read-only: use the control socket, ",
                                       Control())))
        << command;
  }
  EXPECT_EQ(Vmctl(Control(), "device restart rng0").exit_code, 0);
  EXPECT_EQ(Vmctl(Control(), "stop").exit_code, 0);
  ASSERT_TRUE(vm_->WaitForExit(kTimeout).ok());
  EXPECT_FALSE(std::filesystem::exists(Monitor())) << "the vmm left its socket";
}

TEST_F(AccessTest, OnlyBinariesInAllowedFoldersAreStarted) {
  const std::string binary = DataFile("devices/virtio_rng/virtio_rng");
  for (const char* folder : {"allowed", "elsewhere"}) {
    std::filesystem::create_directory(absl::StrCat(folder_, "/", folder));
    std::filesystem::copy_file(binary, absl::StrCat(folder_, "/", folder, "/rng"));
  }
  const std::string allowed = absl::StrCat(folder_, "/allowed");
  std::filesystem::create_symlink("/bin/true", absl::StrCat(allowed, "/link"));
  ASSERT_NO_FATAL_FAILURE(StartVm(absl::StrCat("binary_dirs: '", allowed, "'")));
  const auto restart = [&](const std::string& path) {
    return Vmctl(Control(), absl::StrCat("device restart rng0 --binary ", path));
  };
  for (const std::string& refused :
       {std::string("/bin/true"), absl::StrCat(folder_, "/elsewhere/rng"),
        absl::StrCat(allowed, "/link"), absl::StrCat(allowed, "/../elsewhere/rng")}) {
    const CommandResult result = restart(refused);
    EXPECT_EQ(result.exit_code, 1) << refused << ": " << result.output;
    EXPECT_THAT(result.output, HasSubstr("is not in a folder from which this VM takes binaries"));
    EXPECT_THAT(result.output, HasSubstr(allowed));
    EXPECT_THAT(result.output, HasSubstr("binary_dirs"));
  }
  EXPECT_THAT(Vmctl(Control(), "device show rng0").output, HasSubstr("RUNNING"));
  // An allowed one, and one from beside the vmm.
  for (const std::string& good : {absl::StrCat(allowed, "/rng"), binary}) {
    const CommandResult result = restart(good);
    EXPECT_EQ(result.exit_code, 0) << good << ": " << result.output;
  }
}

}  // namespace
}  // namespace bulkhead::integration
