// A real vmm whose boot loader lies (hostile_boot_loader.cc): at the start of a VM, where
// the guest's disk may bring that about, and at a reboot of the running guest. Either the lie harms
// nobody and the guest boots, or there is one error that names it, with the exit code of
// docs/boot.md. Afterwards no process of the boot loader and none of its files is left.
#include <signal.h>
#include <stdlib.h>
#include <sys/types.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kTimeout = absl::Minutes(4);
constexpr size_t kMaxGrowthKiB = 2 << 10;
// An error has 100 lines of the boot loader at most.
constexpr int kMaxLines = 130;
constexpr char kBoots[] = "";

struct Lie {
  const char* name;
  const char* said;  // a part of the error, or kBoots
  bool needs_fork = false;
};

constexpr char kUnreadable[] = "the boot loader's report cannot be read";
constexpr char kNoKernel[] = "the boot loader has reported no kernel";

constexpr Lie kLies[] = {
    {"exits", "the boot loader failed: exit code 9"},
    {"exits_midway", "the boot loader failed: exit code 9"},
    {"crashes", "the boot loader failed: killed by signal 4"},
    {"violates_sandbox", "the boot loader failed: it violated its sandbox: "},
    {"lines_forged", "the boot loader failed: exit code 9; its last lines:"},
    {"prints_4_mib", kBoots},
    {"closes_all", kNoKernel},
    {"leaves_process", kBoots, /*needs_fork=*/true},
    {"grows_files", kBoots},
    {"seals_files", kBoots},
    {"writes_disk", kBoots},
    {"report_untouched", kNoKernel},
    {"report_twice", kBoots},
    {"report_garbage", kUnreadable},
    {"report_of_16_eib", kUnreadable},
    {"report_beyond_its_file", kUnreadable},
    {"report_cut", kUnreadable},
    {"report_empty", kUnreadable},
    {"error_forged", "\\x1b[2J\\x0avmm: error: forged"},
    {"log_of_20000_lines", "many lines"},
    {"log_of_200_kib", "a long line"},
    {"names_forged", kBoots},
    {"no_kernel_named", kNoKernel},
    {"command_line_with_zero", "the kernel's command line has a zero byte"},
    {"command_line_with_escapes", kBoots},
    {"command_line_without_end", "the kernel's command line has 1000"},
    {"kernel_untouched", "\"disk0:(hd0)/kernel\": not a kernel"},
    {"kernel_garbage", "\"disk0:(hd0)/kernel\": not a kernel"},
    {"kernel_cut", "\"disk0:(hd0)/kernel\": the file is truncated"},
    {"kernel_empty", "\"disk0:(hd0)/kernel\": the file is empty"},
    {"initrd_untouched", "\"disk0:(hd0)/initrd\": 67108864 bytes do not fit beside the kernel"},
    {"initrd_unnamed", "the boot loader has written an initrd and reported none"},
};

size_t PrivateKiB(pid_t pid) {
  const std::string status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
  const size_t at = status.find("RssAnon:");
  return at == std::string::npos ? 0 : static_cast<size_t>(atoll(&status[at + 8]));
}

// The programs in `folder` that run now.
int CountProcessesOf(const std::string& folder) {
  int count = 0;
  std::error_code gone;
  for (const auto& process : std::filesystem::directory_iterator("/proc", gone)) {
    count += absl::StartsWith(ReadFile(process.path().string() + "/cmdline"), folder) ? 1 : 0;
  }
  return count;
}

class BootLoaderTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const std::string program :
         {"integration/hostile/hostile_boot_loader", "devices/virtio_blk/virtio_blk",
          "devices/uart16550/uart16550"}) {
      const std::string name = absl::StrContains(program, "boot_loader")
                                   ? "boot_loader"
                                   : program.substr(program.rfind('/'));
      std::filesystem::create_symlink(DataFile(program), absl::StrCat(folder_, "/", name));
    }
    disk_ = folder_ + "/disk";
    std::ofstream(disk_) << std::string(4096, '\0')
                         << ReadFile(DataFile("kernel_images/baremetal/guest.elf"));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // From now on the boot loader lies so; "": it serves honestly.
  void SetLie(const std::string& name) const {
    std::fstream disk(disk_, std::ios::in | std::ios::out | std::ios::binary);
    disk.seekp(512);
    disk << name << '\0' << std::flush;
    ASSERT_TRUE(disk.good());
  }

  std::unique_ptr<VmProcess> Start(bool may_fork = false) const {
    std::vector<std::string> flags = {"--name=liar", "--memory=64M", "--device-dir=" + folder_,
                                      "--disk=path=" + disk_};
    if (may_fork) flags.push_back("--sandbox-waive=seccomp");
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    EXPECT_TRUE(vm.ok()) << vm.status();
    return vm.ok() ? *std::move(vm) : nullptr;
  }

  void ExpectBoots(VmProcess& vm) const {
    const auto boots = vm.WaitForOutput("waits", kTimeout);
    ASSERT_TRUE(boots.ok()) << boots.status();
    EXPECT_EQ(CountProcessesOf(folder_ + "/boot_loader"), 0);
    std::error_code gone;
    for (const auto& file :
         std::filesystem::directory_iterator(absl::StrCat("/proc/", vm.pid(), "/fd"), gone)) {
      const std::string target = std::filesystem::read_symlink(file.path(), gone).string();
      for (const char* const left :
           {"memfd:kernel", "memfd:initrd", "memfd:boot report", "memfd:seccomp filter"}) {
        EXPECT_THAT(target, Not(HasSubstr(left)));
      }
    }
  }

  void ExpectEnd(VmProcess& vm, const std::string& end) const {
    const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status() << vm.log();
    EXPECT_EQ(exit->ToString(), end) << vm.log() << vm.output();
    const absl::Time deadline = absl::Now() + kTimeout;
    while (CountProcessesOf(folder_) > 0 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_EQ(CountProcessesOf(folder_), 0);
    // Nothing of its text reaches the terminal as it is, or looks like the vmm's own.
    EXPECT_THAT(vm.log(), Not(HasSubstr("\x1b")));
    EXPECT_THAT(vm.log(), Not(HasSubstr("\nvmm: error: forged")));
    EXPECT_LT(std::count(vm.log().begin(), vm.log().end(), '\n'), kMaxLines);
  }

  // Waits for the boot loader's process.
  static pid_t AwaitBootLoader(VmProcess& vm) {
    const absl::Time deadline = absl::Now() + kTimeout;
    pid_t pid = kNoProcess;
    while ((pid = vm.PidOf("boot_loader")) == kNoProcess && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return pid;
  }

  const std::string folder_ = MakeTempFolder();
  std::string disk_;
};

class HostileBootLoaderTest : public BootLoaderTest, public testing::WithParamInterface<Lie> {};

TEST_P(HostileBootLoaderTest, AtTheStart) {
  SetLie(GetParam().name);
  const std::unique_ptr<VmProcess> vm = Start(GetParam().needs_fork);
  ASSERT_NE(vm, nullptr);
  if (GetParam().said == absl::string_view(kBoots)) {
    ExpectBoots(*vm);
    ASSERT_TRUE(vm->Signal(SIGTERM).ok());
    return ExpectEnd(*vm, "exit code 6");
  }
  ExpectEnd(*vm, "exit code 2");
  EXPECT_THAT(vm->log(), HasSubstr("vmm: error: "));
  EXPECT_THAT(vm->log(), HasSubstr(GetParam().said));
}

TEST_P(HostileBootLoaderTest, AtAReboot) {
  const std::unique_ptr<VmProcess> vm = Start(GetParam().needs_fork);
  ASSERT_NE(vm, nullptr);
  ExpectBoots(*vm);
  const size_t before = PrivateKiB(vm->pid());
  SetLie(GetParam().name);
  ASSERT_TRUE(vm->Type("x").ok());
  if (GetParam().said == absl::string_view(kBoots)) {
    ExpectBoots(*vm);
    EXPECT_LT(PrivateKiB(vm->pid()), before + kMaxGrowthKiB);
    ASSERT_TRUE(vm->Signal(SIGTERM).ok());
    return ExpectEnd(*vm, "exit code 6");
  }
  ExpectEnd(*vm, "exit code 1");
  EXPECT_THAT(vm->log(), HasSubstr(": vmm error: rebooting: "));
  EXPECT_THAT(vm->log(), HasSubstr(GetParam().said));
}

INSTANTIATE_TEST_SUITE_P(Lies, HostileBootLoaderTest, testing::ValuesIn(kLies),
                         [](const auto& info) { return info.param.name; });

class EndlessBootLoaderTest : public BootLoaderTest,
                              public testing::WithParamInterface<const char*> {};

TEST_P(EndlessBootLoaderTest, IsEndedWithTheVm) {
  for (const bool reboots : {false, true}) {
    SCOPED_TRACE(reboots);
    SetLie(reboots ? "" : GetParam());
    const std::unique_ptr<VmProcess> vm = Start();
    ASSERT_NE(vm, nullptr);
    if (reboots) {
      ExpectBoots(*vm);
      SetLie(GetParam());
      ASSERT_TRUE(vm->Type("x").ok());
    }
    ASSERT_NE(AwaitBootLoader(*vm), kNoProcess) << vm->log();
    if (reboots) {
      ASSERT_TRUE(VmClient(ControlSocketOf("liar")).Stop().ok());
    } else {
      ASSERT_TRUE(vm->Signal(SIGTERM).ok());
    }
    ExpectEnd(*vm, "exit code 6");
  }
}

INSTANTIATE_TEST_SUITE_P(Lies, EndlessBootLoaderTest,
                         testing::Values("never_ends", "prints_for_ever"),
                         [](const auto& info) { return info.param; });

// After two minutes, as docs/boot.md says. The VMs wait at the same time.
TEST_F(BootLoaderTest, OneThatNeverEndsIsKilled) {
  const std::unique_ptr<VmProcess> running = Start();
  ASSERT_NE(running, nullptr);
  ExpectBoots(*running);
  SetLie("never_ends");
  ASSERT_TRUE(running->Type("x").ok());
  ASSERT_NE(AwaitBootLoader(*running), kNoProcess) << running->log();
  const std::string copy = folder_ + "/copy";
  std::filesystem::copy_file(disk_, copy);
  const std::unique_ptr<VmProcess> checked =
      *VmProcess::Start({"--name=other", "--memory=64M", "--check", "--device-dir=" + folder_,
                         "--disk=path=" + copy});
  ExpectEnd(*running, "exit code 1");
  ExpectEnd(*checked, "exit code 2");
  for (const VmProcess* const vm : {running.get(), checked.get()}) {
    EXPECT_THAT(vm->log(), HasSubstr("the boot loader was killed: it took more than 2m"));
  }
}

}  // namespace
}  // namespace bulkhead::integration
