// The volume for cloud-init as Linux sees it: a read-only disk, whose file system its own driver
// reads, also while the disk's process is killed or replaced, and after a reboot.

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

// Of no private key.
constexpr char kKey[] =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@host";
constexpr char kDevice[] = "cloud-init";

class CloudInitVolumeTest : public testing::Test {
 protected:
  std::string InGuest(const std::string& command) {
    const absl::StatusOr<std::string> output = guest_->Run(command);
    EXPECT_TRUE(output.ok()) << output.status() << guest_->vm().log();
    return output.value_or("");
  }
  // Past what the guest's kernel remembers.
  std::string ReadVolume() {
    return InGuest(
        "mount -t iso9660 -o ro /dev/vdb /mnt && cat /mnt/user-data /mnt/meta-data; "
        "umount /mnt; echo 3 > /proc/sys/vm/drop_caches");
  }

  std::unique_ptr<GuestShell> guest_;
};

TEST_F(CloudInitVolumeTest, LinuxReadsItOverDeathRestartAndReboot) {
  const std::string disk = WriteTempFile("disk.img", std::string(1 << 20, 'd'));
  const std::string key = WriteTempFile("key.pub", absl::StrCat(kKey, "\n"));
  const std::string user_data = WriteTempFile("user-data", "#!/bin/sh\necho hello\n");
  absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(
      {"--name=cloud", "--memory=256M", absl::StrCat("--cloud-init=user-data=", user_data),
       absl::StrCat("--ssh-key=", key), "--hostname=web.example.org",
       absl::StrCat("--disk=path=", disk)},
      "", /*reboots=*/true);
  ASSERT_TRUE(booted.ok()) << booted.status();
  guest_ = *std::move(booted);
  const VmClient client(ControlSocketOf("cloud"));
  InGuest("modprobe isofs");

  EXPECT_EQ(InGuest("dd if=/dev/vdb bs=1 skip=32808 count=6 2>/dev/null"), "CIDATA");
  EXPECT_EQ(InGuest("cat /sys/block/vdb/serial /sys/block/vdb/ro"), "cloud-init1");
  const std::string first = ReadVolume();
  EXPECT_THAT(first, AllOf(HasSubstr("#!/bin/sh\necho hello\ninstance-id: iid-bulkhead-"),
                           HasSubstr("local-hostname: \"web.example.org\"\n"),
                           HasSubstr(absl::StrCat("public-keys:\n- \"", kKey, "\""))));

  const absl::StatusOr<v1::Device> disk0 = client.GetDevice("disk0");
  const absl::StatusOr<v1::Device> volume = client.GetDevice(kDevice);
  ASSERT_TRUE(disk0.ok() && volume.ok()) << disk0.status() << volume.status();
  EXPECT_THAT(volume->sandbox_layers(), ElementsAreArray(disk0->sandbox_layers()));

  ASSERT_TRUE(client.KillProcessOf(kDevice));
  EXPECT_EQ(ReadVolume(), first);
  EXPECT_EQ(client.GenerationOf(kDevice), 2u);
  // The file of the user is not looked at again.
  WriteTempFile("user-data", "something else");
  const absl::StatusOr<v1::Device> restarted = client.RestartDevice(kDevice);
  EXPECT_TRUE(restarted.ok()) << restarted.status();
  EXPECT_EQ(ReadVolume(), first);
  const absl::StatusOr<v1::Device> resized = client.ResizeDisk(kDevice, 1 << 20);
  EXPECT_THAT(resized.status().message(), HasSubstr("is read-only"));

  ASSERT_TRUE(guest_->Reboot().ok()) << guest_->vm().log();
  InGuest("modprobe isofs");
  EXPECT_EQ(ReadVolume(), first);
  EXPECT_EQ(client.GenerationOf(kDevice), 3u);
  const absl::StatusOr<ExitInfo> exit = guest_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << guest_->vm().log();
}

}  // namespace
}  // namespace bulkhead::integration
