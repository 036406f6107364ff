// A VM that has a disk and no kernel: what it boots, also after a reboot, and what it says if there
// is nothing. The guests are bare-metal programs, which GRUB's configuration on the disk chooses.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/disk_boot/disk_image.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

const std::map<std::string, std::string> kCommandLines = {
    {"hello", "run=hello"},
    {"idle", "run=idle halt=1"},
    {"reboots", "run=reboot_test boots=9 by_key=1"},
};

std::string Disk(const std::string& name, const std::string& default_entry) {
  return MakeDiskImage(name, "16M",
                       {{"/boot/guest.elf", DataFile("kernel_images/baremetal/guest.elf")},
                        {"/boot/grub/grub.cfg",
                         "=" + GrubConfig("/boot/guest.elf", "", kCommandLines, default_entry)}});
}

std::unique_ptr<VmProcess> Start(std::vector<std::string> flags) {
  absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
  EXPECT_TRUE(vm.ok()) << vm.status();
  return vm.ok() ? *std::move(vm) : nullptr;
}

void ExpectEnd(VmProcess& vm, const std::string& end) {
  const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status() << vm.log();
  EXPECT_EQ(exit->ToString(), end) << vm.log() << vm.output();
}

TEST(DiskBootTest, BootsWhatTheDiskSays) {
  const std::unique_ptr<VmProcess> vm =
      Start({"--disk=path=" + Disk("hello.raw", "hello"), "--memory=64M"});
  ASSERT_NE(vm, nullptr);
  ExpectEnd(*vm, "exit code 0");
  EXPECT_THAT(vm->output(), HasSubstr("hello from a bare-metal guest"));
  EXPECT_THAT(vm->log(), HasSubstr("booting \"Entry hello\": disk0:(hd0,gpt1)/boot/guest.elf"));
}

TEST(DiskBootTest, BootsTheEntryAndTheCommandLineThatTheUserWants) {
  const std::string disk = Disk("choice.raw", "reboots");
  const std::unique_ptr<VmProcess> vm =
      Start({"--disk=path=" + disk, "--memory=64M", "--boot-entry=Entry idle", "--name=choice",
             "--cmdline-append=more=1"});
  ASSERT_NE(vm, nullptr);
  ASSERT_TRUE(vm->WaitForOutput("idle", kTimeout).ok()) << vm->log();
  const VmClient client(ControlSocketOf("choice"));
  const auto status = client.GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->cmdline(), "run=idle halt=1 more=1 console=ttyS0");
  EXPECT_EQ(status->kernel_path(), "disk0:(hd0,gpt1)/boot/guest.elf");
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  ExpectEnd(*vm, "exit code 6");

  const std::unique_ptr<VmProcess> other =
      Start({"--disk=path=" + disk, "--memory=64M", "--cmdline=run=hello"});
  ASSERT_NE(other, nullptr);
  ExpectEnd(*other, "exit code 0");
}

TEST(DiskBootTest, ARebootLooksAtTheDiskAgain) {
  const std::string disk = Disk("reboot.raw", "reboots");
  const std::string next = Disk("next.raw", "hello");
  const std::unique_ptr<VmProcess> vm = Start({"--disk=path=" + disk, "--memory=64M"});
  ASSERT_NE(vm, nullptr);
  ASSERT_TRUE(vm->WaitForOutput("waits", kTimeout).ok()) << vm->log();
  ReplacePartition(disk, next);
  ASSERT_TRUE(vm->Type("x").ok());
  ExpectEnd(*vm, "exit code 0");
  EXPECT_THAT(vm->output(), HasSubstr("hello from a bare-metal guest"));
}

TEST(DiskBootTest, AnEndDuringAReboot) {
  const std::string disk = Disk("empty_reboot.raw", "reboots");
  const std::string next = MakeDiskImage("nothing.raw", "16M", {{"/etc/fstab", "=\n"}});
  const std::unique_ptr<VmProcess> vm = Start({"--disk=path=" + disk, "--memory=64M"});
  ASSERT_NE(vm, nullptr);
  ASSERT_TRUE(vm->WaitForOutput("waits", kTimeout).ok()) << vm->log();
  ReplacePartition(disk, next);
  ASSERT_TRUE(vm->Type("x").ok());
  ExpectEnd(*vm, "exit code 1");
  EXPECT_THAT(vm->log(), HasSubstr("rebooting: booting from disk 'disk0'"));
}

void ExpectRefused(const std::vector<std::string>& flags, const std::vector<std::string>& texts) {
  for (const bool checks : {false, true}) {
    std::vector<std::string> all = flags;
    all.push_back("--memory=64M");
    if (checks) all.push_back("--check");
    const std::unique_ptr<VmProcess> vm = Start(all);
    ASSERT_NE(vm, nullptr);
    ExpectEnd(*vm, "exit code 2");
    EXPECT_THAT(vm->log(), HasSubstr("vmm: error: "));
    for (const std::string& text : texts) EXPECT_THAT(vm->log(), HasSubstr(text));
  }
}

TEST(DiskBootTest, SaysWhatItLookedForAndFound) {
  ExpectRefused({"--disk=path=" + WriteTempFile("zero.img", std::string(1 << 20, '\0'))},
                {"booting from disk 'disk0' (", "nothing to boot",
                 "(hd0) of 1 MiB: no ext2, ext3, ext4 or FAT file system"});
  ExpectRefused({"--disk=path=" + MakeDiskImage("files.raw", "16M", {{"/etc/fstab", "=\n"}})},
                {"(hd0,gpt1) of 14 MiB: ext2/3/4 \"root\"", "no /boot/grub/grub.cfg"});
  ExpectRefused({"--disk=path=" + Disk("entries.raw", "hello"), "--boot-entry=no such"},
                {"entry 0, \"Entry hello\" (hello)", "entry 2, \"Entry reboots\""});
}

TEST(DiskBootTest, AKernelThatIsNoneIsNamed) {
  ExpectRefused({"--disk=path=" +
                 MakeDiskImage("none.raw", "16M",
                               {{"/boot/k", "=no kernel\n"},
                                {"/boot/grub/grub.cfg", "=menuentry x {\n linux /boot/k\n}\n"}})},
                {"kernel: \"disk0:(hd0,gpt1)/boot/k\": not a kernel"});
}

TEST(DiskBootTest, ChecksAGoodOne) {
  const std::unique_ptr<VmProcess> vm =
      Start({"--disk=path=" + Disk("check.raw", "hello"), "--memory=64M", "--check"});
  ASSERT_NE(vm, nullptr);
  ExpectEnd(*vm, "exit code 0");
  EXPECT_THAT(vm->output(), EndsWith(" is valid.\n"));
}

}  // namespace
}  // namespace bulkhead::integration
