// A Linux that its disk boots: Debian's kernel, with a small user space, or an image of a whole
// Debian, such as tools/make_image makes.
//
// usage: linux_disk_boot_test [IMAGE]

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/disk_boot/disk_image.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kSlowly = absl::Minutes(20);

std::string image;

std::string Disk(const std::string& name, const std::string& default_entry) {
  const std::string common = "quiet panic=-1 bulkhead.shell=1 boot=";
  return MakeDiskImage(
      name, "96M",
      {{"/boot/vmlinuz", DataFile("external/debian_guest_kernel/bzImage")},
       {"/boot/initrd.img", DataFile("kernel_images/guest_initramfs.cpio")},
       {"/boot/grub/grub.cfg",
        "=" + GrubConfig("/boot/vmlinuz", "/boot/initrd.img",
                         {{"first", common + "first"}, {"second", common + "second"}},
                         default_entry)}});
}

TEST(LinuxDiskBootTest, BootsFromItsDiskAloneAndAnotherKernelAfterAReboot) {
  if (!image.empty()) GTEST_SKIP() << "the image is tested";
  const std::string disk = Disk("linux.raw", "first");
  absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({"--disk=path=" + disk, "--memory=256M"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  GuestShell shell(*std::move(vm));
  ASSERT_TRUE(shell.AwaitReady().ok()) << shell.vm().log() << shell.vm().output();
  EXPECT_THAT(shell.Run("cat /proc/cmdline").value_or(""), HasSubstr("boot=first console=ttyS0"));
  EXPECT_THAT(shell.Run("cat /proc/partitions").value_or(""), HasSubstr("vda1"));
  ReplacePartition(disk, Disk("next.raw", "second"));
  ASSERT_TRUE(shell.Reboot().ok()) << shell.vm().log();
  EXPECT_THAT(shell.Run("cat /proc/cmdline").value_or(""), HasSubstr("boot=second"));
  EXPECT_EQ(shell.Leave()->ToString(), "exit code 0");
}

// A disk with an EFI system partition, and on that a unified kernel image of systemd's stub, as
// ukify makes them.
std::string UnifiedDisk() {
  const std::string base = absl::StrCat(::testing::TempDir(), "/unified");
  const std::string folder =
      MakeFolder("unified", {{"/cmdline", "=quiet panic=-1 bulkhead.shell=1 boot=unified\n"},
                             {"/osrel", "=ID=test\nPRETTY_NAME=\"A unified Linux\"\n"},
                             {"/linux", DataFile("external/debian_guest_kernel/bzImage")},
                             {"/initrd", DataFile("kernel_images/guest_initramfs.cpio")}});
  std::string sections;
  for (const char* name : {"osrel", "cmdline", "linux", "initrd"}) {
    absl::StrAppend(&sections, " --add-section .", name, "=", folder, "/", name);
  }
  const std::string image = base + ".raw";
  OutputOf(
      absl::StrCat("export PATH=$PATH:/usr/sbin:/sbin MTOOLS_SKIP_CHECK=1; set -e\n"
                   "objcopy",
                   sections, " /usr/lib/systemd/boot/efi/linuxx64.efi.stub ", base, ".efi\n",
                   "truncate --size=130M ", image, "\n",
                   "echo 'label: gpt\nstart=1MiB, size=128MiB, type=uefi' | sfdisk --quiet ", image,
                   "\n", "mkfs.fat -F 32 --offset 2048 ", image, " 131072\n", "mmd -i ", image,
                   "@@1M ::/EFI ::/EFI/Linux\n", "mcopy -i ", image, "@@1M ", base,
                   ".efi ::/EFI/Linux/linux-6.1.efi\n"));
  std::filesystem::remove_all(folder);
  return image;
}

TEST(LinuxDiskBootTest, BootsAUnifiedKernelImageOfTheEfiSystemPartition) {
  if (!image.empty()) GTEST_SKIP() << "the image is tested";
  absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({"--disk=path=" + UnifiedDisk(), "--memory=320M"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  GuestShell shell(*std::move(vm));
  ASSERT_TRUE(shell.AwaitReady().ok()) << shell.vm().log() << shell.vm().output();
  EXPECT_THAT(shell.vm().log(), HasSubstr("booting \"A unified Linux\": disk0:(hd0,gpt1)/EFI/Linux/"
                                          "linux-6.1.efi"));
  EXPECT_THAT(shell.Run("cat /proc/cmdline").value_or(""), HasSubstr("boot=unified console=ttyS0"));
  EXPECT_EQ(shell.Leave()->ToString(), "exit code 0");
}

TEST(LinuxDiskBootTest, BootsTheImageToALoginPrompt) {
  if (image.empty()) GTEST_SKIP() << "no image was given";
  absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({"--disk=path=" + image, "--memory=1G"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  const absl::Status prompt = (*vm)->WaitForOutput("login: ", kSlowly).status();
  EXPECT_TRUE(prompt.ok()) << prompt << (*vm)->log() << (*vm)->output();
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ((*vm)->WaitForExit(kSlowly)->ToString(), "exit code 6");
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc > 1) bulkhead::integration::image = argv[1];
  return RUN_ALL_TESTS();
}
