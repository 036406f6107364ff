// Disks with the partitions and the boot configurations of Ubuntu, Fedora and Debian, as their
// images have them: the kernel of the default entry, or of the one that the user wants, boots. The
// kernels are a bare-metal program; the configurations are those of the boot loader's tests.

#include <signal.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
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

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);
// In the configurations.
constexpr char kBootUuid[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
constexpr char kRootUuid[] = "11111111-2222-3333-4444-555555555555";

std::string Configuration(const std::string& name) {
  std::string text = ReadFile(DataFile(absl::StrCat("vmm/boot_loader/testdata/", name)));
  EXPECT_NE(text, "") << name;
  return "=" + text;
}

std::string Kernel() { return DataFile("kernel_images/baremetal/guest.elf"); }

// GRUB's, of 1024 bytes.
std::string GrubEnvironment(const std::string& lines) {
  std::string text = absl::StrCat("# GRUB Environment Block\n", lines);
  text.resize(1024, '#');
  return "=" + text;
}

// Expects that the disk boots this entry's kernel with this command line, beside `flags`.
void ExpectBoots(const std::string& disk, const std::vector<std::string>& more,
                 const std::string& booting, const std::string& command_line) {
  std::vector<std::string> flags = {"--disk=path=" + disk, "--memory=64M", "--name=layout",
                                    "--cmdline-append=run=idle halt=1"};
  flags.insert(flags.end(), more.begin(), more.end());
  absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
  ASSERT_TRUE(vm.ok()) << vm.status();
  const absl::Status runs = (*vm)->WaitForOutput("idle", kTimeout).status();
  ASSERT_TRUE(runs.ok()) << runs << (*vm)->log();
  EXPECT_THAT((*vm)->log(), HasSubstr(booting));
  const auto status = VmClient(ControlSocketOf("layout")).GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->cmdline(), command_line);
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitInfo> exit = (*vm)->WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status() << (*vm)->log();
  EXPECT_EQ(exit->ToString(), "exit code 6") << (*vm)->log();
}

// The boot partition has number 16 and lies before the others.
TEST(DistributionTest, UbuntuCloudImage) {
  const std::string disk = MakePartitionedImage(
      "ubuntu.raw", {{14, "", "", {}},
                     {15, "", "", {}},
                     {16,
                      kBootUuid,
                      "BOOT",
                      {{"/grub/grub.cfg", Configuration("ubuntu_24_04_grub.cfg")},
                       {"/grub/grubenv", GrubEnvironment("")},
                       {"/vmlinuz-6.8.0-51-generic", Kernel()},
                       {"/initrd.img-6.8.0-51-generic", "=initrd"}}},
                     {1, kRootUuid, "cloudimg-rootfs", {{"/etc/fstab", "=LABEL=BOOT /boot\n"}}}});
  ExpectBoots(disk, {}, "booting \"Ubuntu\": disk0:(hd0,gpt16)/vmlinuz-6.8.0-51-generic",
              "root=LABEL=cloudimg-rootfs ro console=tty1 console=ttyS0 run=idle halt=1");
  ExpectBoots(disk, {"--boot-entry=recovery"}, "(recovery mode)\": disk0:(hd0,gpt16)/vmlinuz-6.8",
              "root=LABEL=cloudimg-rootfs ro recovery nomodeset dis_ucode_ldr run=idle halt=1 "
              "console=ttyS0");
}

// GRUB's configuration names no kernel: entries of the Boot Loader Specification do.
TEST(DistributionTest, FedoraCloudImage) {
  const std::string machine = "/loader/entries/0123456789abcdef0123456789abcdef-";
  std::map<std::string, std::string> boot = {
      {"/grub2/grub.cfg", Configuration("fedora_40_grub.cfg")},
      {"/grub2/grubenv", GrubEnvironment("boot_success=0\n")}};
  for (const std::string version :
       {"6.8.5-301.fc40.x86_64", "6.11.3-200.fc40.x86_64", "6.9.12-200.fc40.x86_64", "0-rescue"}) {
    boot[absl::StrCat(machine, version, ".conf")] =
        absl::StrCat("=title Fedora Linux (", version, ") 40 (Cloud Edition)\nversion ", version,
                     "\nlinux /vmlinuz-", version, "\ninitrd /initramfs-", version,
                     ".img $tuned_initrd\noptions $kernelopts $tuned_params console=ttyS0\n",
                     "grub_users $grub_users\ngrub_arg --unrestricted\ngrub_class fedora\n");
    boot[absl::StrCat("/vmlinuz-", version)] = Kernel();
    boot[absl::StrCat("/initramfs-", version, ".img")] = "=initrd";
  }
  // The root is a btrfs, which is not read.
  const std::string disk = MakePartitionedImage(
      "fedora.raw",
      {{1, "", "", {}}, {2, "", "", {}}, {3, kBootUuid, "boot", boot}, {4, "", "", {}}});
  ExpectBoots(disk, {}, "disk0:(hd0,gpt3)/vmlinuz-6.11.3-200.fc40.x86_64",
              "root=UUID=99999999-0000-0000-0000-000000000000 ro rootflags=subvol=root   "
              "console=ttyS0 run=idle halt=1");
  ExpectBoots(disk, {"--boot-entry=6.8.5"}, "disk0:(hd0,gpt3)/vmlinuz-6.8.5-301.fc40.x86_64",
              "root=UUID=99999999-0000-0000-0000-000000000000 ro rootflags=subvol=root   "
              "console=ttyS0 run=idle halt=1");
}

// The root is in LVM; the entry was chosen by grub-set-default; two initrds.
TEST(DistributionTest, DebianWithASeparateBootPartition) {
  const std::string environment = absl::StrCat("saved_entry=gnulinux-advanced-", kRootUuid,
                                               ">gnulinux-6.12.6-amd64-advanced-", kRootUuid, "\n");
  const std::string disk =
      MakePartitionedImage("debian.raw", {{1,
                                           kBootUuid,
                                           "boot",
                                           {{"/grub/grub.cfg", Configuration("debian_13_grub.cfg")},
                                            {"/grub/grubenv", GrubEnvironment(environment)},
                                            {"/vmlinuz-6.12.9+deb13-amd64", Kernel()},
                                            {"/initrd.img-6.12.9+deb13-amd64", "=initrd"},
                                            {"/vmlinuz-6.12.6-amd64", Kernel()},
                                            {"/initrd.img-6.12.6-amd64", "=initrd"},
                                            {"/intel-ucode.img", "=microcode"}}},
                                          {2, "", "", {}}});
  ExpectBoots(disk, {}, "disk0:(hd0,gpt1)/vmlinuz-6.12.6-amd64",
              "root=/dev/mapper/vg-root ro quiet splash run=idle halt=1 console=ttyS0");
  ExpectBoots(disk, {"--boot-entry=0"}, "disk0:(hd0,gpt1)/vmlinuz-6.12.9+deb13-amd64",
              "root=/dev/mapper/vg-root ro quiet splash run=idle halt=1 console=ttyS0");
}

}  // namespace
}  // namespace bulkhead::integration
