// The programs as their operator meets them: --check, --version, vmctl beside a real VM, and the
// exit codes of what goes wrong.

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
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

struct Result {
  int code = -1;
  std::string text;  // standard output and error
};

Result RunProgram(const std::string& command) {
  Result result;
  FILE* const pipe = popen(absl::StrCat(command, " 2>&1 </dev/null").c_str(), "re");
  if (pipe == nullptr) return result;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) result.text.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  return result;
}

Result Vmm(const std::string& arguments) {
  return RunProgram(absl::StrCat(DataFile("vmm/vmm"), " ", arguments));
}

Result Vmctl(const std::string& arguments) {
  return RunProgram(absl::StrCat(DataFile("tools/vmctl/vmctl"), " ", arguments));
}

std::string Kernel() {
  return absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf"),
                      " --cmdline=run=idle ");
}

std::string WriteFile(const std::string& name, const std::string& content) {
  std::string path = absl::StrCat(::testing::TempDir(), "/", name);
  std::ofstream(path) << content;
  return path;
}

std::string Disk(const std::string& name) { return WriteFile(name, std::string(4096, '\0')); }

TEST(CheckTest, AConfigurationThatCanStartIsValid) {
  const Result result =
      Vmm(absl::StrCat("--check --name=web ", Kernel(), "--rng --disk path=", Disk("valid.img")));
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.text, "The configuration of \"web\" is valid.\n");
}

TEST(CheckTest, WhatAStartWouldRefuseIsFoundByACheckToo) {
  const std::string text = WriteFile("text", "This is no kernel at all, but a text.\n");
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
                    WriteFile("slot.textproto",
                              "devices { name: 'com' binary: 'uart16550' pci_slot: 7 "
                              "resources { name: 'console' console {} } }")),
       "pci_slot: 7 is given for a device that is not on the PCI bus"},
  };
  for (const auto& [arguments, problem] : cases) {
    for (const char* check : {"--check ", ""}) {
      const Result result = Vmm(absl::StrCat(check, "--control=none ", arguments));
      EXPECT_EQ(result.code, 2) << check << arguments << "\n" << result.text;
      EXPECT_THAT(result.text, HasSubstr(problem)) << check << arguments;
    }
  }
}

TEST(CheckTest, ADeviceThatFailsIsNoMistakeOfTheConfiguration) {
  const Result result = Vmm(absl::StrCat("--check ", Kernel(), "--device name=a,binary=/bin/true"));
  EXPECT_EQ(result.code, 1) << result.text;
  EXPECT_THAT(result.text, HasSubstr("device 'a' (/bin/true)"));
}

TEST(CheckTest, TheConfigurationOfARunningVmIsValid) {
  const std::string arguments = absl::StrCat("--disk=path=", Disk("running.img"));
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--cmdline=run=idle", "--control=none", arguments});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("idle", kTimeout).ok()) << (*vm)->log();
  const Result result = Vmm(absl::StrCat("--check ", Kernel(), arguments));
  EXPECT_EQ(result.code, 0) << result.text;
  EXPECT_THAT(result.text, Not(HasSubstr("in use")));
}

TEST(VersionTest, EveryProgramTellsItsVersionContractAndBuild) {
  for (const char* program : {"vmm/vmm", "tools/vmctl/vmctl", "devices/uart16550/uart16550",
                              "devices/virtio_blk/virtio_blk", "devices/virtio_rng/virtio_rng",
                              "devices/example/example"}) {
    const Result result = RunProgram(absl::StrCat(DataFile(program), " --version"));
    EXPECT_EQ(result.code, 0) << program;
    EXPECT_THAT(result.text,
                ContainsRegex("^[a-z0-9-]+ .Bulkhead. [0-9.]+, contract [0-9]+, build"))
        << program;
    const Result help = RunProgram(absl::StrCat(DataFile(program), " -h"));
    EXPECT_EQ(help.code, 0) << program << help.text;
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

  const Result list = Vmctl("list");
  EXPECT_EQ(list.code, 0);
  EXPECT_THAT(list.text, HasSubstr("operated"));
  const Result status = Vmctl("status --vm operated");
  EXPECT_EQ(status.code, 0) << status.text;
  EXPECT_THAT(status.text, ContainsRegex("Version +[0-9.]+, contract [0-9]+, build [0-9a-f]+\n"));

  // Until the devices have reported their own figures, too.
  std::string metrics;
  for (int i = 0; i < 300 && metrics.find("bulkhead_device_model_") == std::string::npos; ++i) {
    const Result result = Vmctl("metrics --vm operated");
    ASSERT_EQ(result.code, 0) << result.text;
    EXPECT_THAT(vmctl::ProblemsOfExposition(result.text), IsEmpty());
    metrics = result.text;
  }
  EXPECT_THAT(metrics, HasSubstr("bulkhead_device_model_"));

  EXPECT_EQ(Vmctl("stop --vm operated").code, 0);
  ASSERT_TRUE((*vm)->WaitForExit(kTimeout).ok());
  const Result ended = Vmctl("status --vm operated");
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.text, HasSubstr("no VM \"operated\" is running"));
}

}  // namespace
}  // namespace bulkhead::integration
