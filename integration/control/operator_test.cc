// The programs as their operator meets them: --check, --version, vmctl beside a real VM, and the
// exit codes of what goes wrong.

#include <stdlib.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"
#include "tools/vmctl/testing/exposition_format.h"

namespace bulkhead::integration {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr absl::Duration kTimeout = absl::Seconds(60);

CommandResult Vmm(const std::string& arguments) {
  return RunCommand(absl::StrCat(DataFile("vmm/vmm"), " ", arguments));
}

CommandResult Vmctl(const std::string& arguments) {
  return RunCommand(absl::StrCat(DataFile("tools/vmctl/vmctl"), " ", arguments));
}

std::string Kernel() {
  return absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf"),
                      " --cmdline=run=idle ");
}

std::string Disk(const std::string& name) { return WriteTempFile(name, std::string(4096, '\0')); }

TEST(CheckTest, AConfigurationThatCanStartIsValid) {
  const CommandResult result =
      Vmm(absl::StrCat("--check --name=web ", Kernel(), "--rng --disk path=", Disk("valid.img")));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, "The configuration of \"web\" is valid.\n");
}

TEST(CheckTest, WhatAStartWouldRefuseIsFoundByACheckToo) {
  const std::string text = WriteTempFile("text", "This is no kernel at all, but a text.\n");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {absl::StrCat("--kernel=", text), text},
      {absl::StrCat(Kernel(), "--initrd=", text,
                    " --memory=16M --cmdline=", std::string(3000, 'x')),
       "cmdline: has 3000 bytes"},
      {absl::StrCat(Kernel(), "--device name=a,binary=virtio_rng,arg=--frobnicate"),
       "device 'a': its flags are wrong"},
      {absl::StrCat(Kernel(), "--device name=a,binary=virtio_blk"), "resource 'disk'"},
      {absl::StrCat(Kernel(), "--console=none --device name=a,binary=uart16550,slot=7"),
       "resource"},
      {absl::StrCat(Kernel(), "--console=detached --config ",
                    WriteTempFile("slot.textproto",
                                  "devices { name: 'com' binary: 'uart16550' pci_slot: 7 "
                                  "resources { name: 'console' console {} } }")),
       "pci_slot: 7 is given for a device that is not on the PCI bus"},
  };
  for (const auto& [arguments, problem] : cases) {
    for (const char* check : {"--check ", ""}) {
      const CommandResult result = Vmm(absl::StrCat(check, "--control=none ", arguments));
      EXPECT_EQ(result.exit_code, 2) << check << arguments << "\n" << result.output;
      EXPECT_THAT(result.output, HasSubstr(problem)) << check << arguments;
    }
  }
}

TEST(CheckTest, ADeviceThatFailsIsNoMistakeOfTheConfiguration) {
  const CommandResult result =
      Vmm(absl::StrCat("--check ", Kernel(), "--device name=a,binary=/bin/true"));
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("device 'a' (/bin/true)"));
}

TEST(CheckTest, TheConfigurationOfARunningVmIsValid) {
  const std::string arguments = absl::StrCat("--disk=path=", Disk("running.img"));
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--cmdline=run=idle", "--control=none", arguments});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("idle", kTimeout).ok()) << (*vm)->log();
  const CommandResult result = Vmm(absl::StrCat("--check ", Kernel(), arguments));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, Not(HasSubstr("in use")));
}

TEST(VersionTest, EveryProgramTellsItsVersionContractAndBuild) {
  for (const char* program :
       {"vmm/vmm", "tools/vmctl/vmctl", "devices/uart16550/uart16550",
        "devices/virtio_blk/virtio_blk", "devices/virtio_rng/virtio_rng", "devices/rig/rig"}) {
    const CommandResult result = RunCommand(absl::StrCat(DataFile(program), " --version"));
    EXPECT_EQ(result.exit_code, 0) << program;
    EXPECT_THAT(result.output,
                ContainsRegex("^[a-z0-9-]+ .Bulkhead. [0-9.]+, contract [0-9]+, build"))
        << program;
    const CommandResult help = RunCommand(absl::StrCat(DataFile(program), " -h"));
    EXPECT_EQ(help.exit_code, 0) << program << help.output;
  }
}

TEST(VmctlTest, FindsAVmAndReadsItsStateAndMetrics) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--cmdline=run=idle", "--name=operated", "--rng",
                        absl::StrCat("--disk=path=", Disk("operated.img")),
                        absl::StrCat("--disk=path=", Disk("operated2.img"))});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("idle", kTimeout).ok()) << (*vm)->log();

  const CommandResult list = Vmctl("list");
  EXPECT_EQ(list.exit_code, 0);
  EXPECT_THAT(list.output, HasSubstr("operated"));
  const CommandResult status = Vmctl("status --vm operated");
  EXPECT_EQ(status.exit_code, 0) << status.output;
  EXPECT_THAT(status.output, ContainsRegex("Version +[0-9.]+, contract [0-9]+, build [0-9a-f]+\n"));

  // Until the devices have reported their own figures, too.
  std::string metrics;
  for (int i = 0; i < 300 && metrics.find("bulkhead_device_model_") == std::string::npos; ++i) {
    const CommandResult result = Vmctl("metrics --vm operated");
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(vmctl::ProblemsOfExposition(result.output), IsEmpty());
    metrics = result.output;
  }
  EXPECT_THAT(metrics, HasSubstr("bulkhead_device_model_"));

  EXPECT_EQ(Vmctl("stop --vm operated").exit_code, 0);
  ASSERT_TRUE((*vm)->WaitForExit(kTimeout).ok());
  const CommandResult ended = Vmctl("status --vm operated");
  EXPECT_EQ(ended.exit_code, 3);
  EXPECT_THAT(ended.output, HasSubstr("no VM \"operated\" is running"));
}

}  // namespace
}  // namespace bulkhead::integration
