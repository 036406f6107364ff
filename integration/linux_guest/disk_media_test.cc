// A Linux guest's disks on block devices and files that a host really has: encrypted, delayed,
// compressed, growing, failing.

#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr off_t kMiB = 1 << 20;

// Runs a command of the host; returns its output without the last newline, or fails the test.
std::string OnHost(const std::string& command) {
  const std::string output = OutputOf("PATH=$PATH:/usr/sbin:/sbin\n" + command);
  return std::string(absl::StripSuffix(output, "\n"));
}

// What the tests make of the host's kernel goes when they end.
class DiskMediaTest : public ::testing::Test {
 protected:
  void TearDown() override {
    vm_.reset();
    for (auto command = undo_.rbegin(); command != undo_.rend(); ++command) OnHost(*command);
  }

  std::string MakeFile(const std::string& name, off_t bytes) {
    const std::string path = TempPath(name);
    std::ofstream(path).flush();
    EXPECT_EQ(truncate(path.c_str(), bytes), 0);
    return path;
  }
  std::string Loop(const std::string& file) {
    OnHost("modprobe loop");
    const std::string device = OnHost("losetup --show -f " + file);
    undo_.push_back("losetup -d " + device);
    return device;
  }
  // `table`: as dmsetup's, without start and length.
  std::string DeviceMapper(const std::string& name, const std::string& below,
                           const std::string& table) {
    OnHost(absl::StrCat("echo \"0 $(blockdev --getsz ", below, ") ", table, "\" | dmsetup create ",
                        name, " --noudevrules --noudevsync && dmsetup mknodes"));
    undo_.push_back(absl::StrCat("dmsetup remove --noudevrules --noudevsync --retry ", name));
    return absl::StrCat("/dev/mapper/", name);
  }
  std::string MountExt4(const std::string& device) {
    const std::string folder = absl::StrCat(device.substr(device.rfind('/') + 1), ".mount");
    const std::string path = TempPath(folder);
    OnHost(absl::StrCat("mkfs.ext4 -q -F ", device, " && mkdir -p ", path, " && mount -t ext4 ",
                        device, " ", path));
    undo_.push_back("umount " + path);
    return path;
  }

  void Boot(const std::string& name, const std::vector<std::string>& disks) {
    std::vector<std::string> flags = {absl::StrCat("--name=", name), "--memory=256M"};
    for (const std::string& disk : disks) flags.push_back(absl::StrCat("--disk=path=", disk));
    absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(flags);
    ASSERT_TRUE(booted.ok()) << booted.status();
    vm_ = *std::move(booted);
  }
  // The output of a command in the guest; fails the test if the command fails.
  std::string Guest(const std::string& command) {
    const absl::StatusOr<std::string> output = vm_->Run(command, absl::Seconds(120));
    EXPECT_TRUE(output.ok()) << command << "\n" << output.status();
    return output.value_or("");
  }
  void KillDiskProcess(const std::string& vm_name) {
    ASSERT_TRUE(VmClient(ControlSocketOf(vm_name)).KillProcessOf("disk0"));
  }

  std::unique_ptr<GuestShell> vm_;
  std::vector<std::string> undo_;
};

// With a file open as O_NONBLOCK, Linux before 6.10 failed each request on all of these.
TEST_F(DiskMediaTest, DevicesThatCannotDoWithoutWaitingServe) {
  OnHost("modprobe dm_mod && modprobe dm_delay && modprobe dm_crypt && modprobe zram");
  const std::string delayed_base = Loop(MakeFile("delayed", 64 * kMiB));
  const std::string delayed =
      DeviceMapper("delayed", delayed_base, absl::StrCat("delay ", delayed_base, " 0 2"));
  const std::string crypt_base = Loop(MakeFile("encrypted", 64 * kMiB));
  const std::string encrypted = DeviceMapper(
      "encrypted", crypt_base,
      absl::StrCat("crypt aes-cbc-plain 00112233445566778899aabbccddeeff 0 ", crypt_base, " 0"));
  OnHost("echo 64M > /sys/block/zram0/disksize");
  undo_.push_back("echo 1 > /sys/block/zram0/reset");
  // And a file on one of them.
  const std::string file = absl::StrCat(MountExt4(delayed), "/disk.img");
  OnHost("truncate -s 16M " + file);

  Boot("media", {file, absl::StrCat(encrypted, ",direct"), "/dev/zram0"});
  if (HasFatalFailure()) return;
  for (const char* disk : {"/dev/vda", "/dev/vdb", "/dev/vdc"}) {
    Guest(
        absl::StrCat("dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null && "
                     "dd if=/tmp/data of=",
                     disk, " bs=64k oflag=direct conv=notrunc,fsync 2>/dev/null"));
    EXPECT_EQ(Guest(absl::StrCat("dd if=", disk,
                                 " bs=64k count=32 iflag=direct 2>/dev/null | cmp - /tmp/data && "
                                 "echo same")),
              "same")
        << disk;
  }
  EXPECT_EQ(vm_->KernelErrors().value_or("unknown"), "");
  EXPECT_THAT(vm_->vm().log(), Not(HasSubstr("temporarily unavailable")));
  const absl::StatusOr<ExitInfo> exit = vm_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

TEST_F(DiskMediaTest, AGuestSeesThatItsImageHasGrownOrShrunk) {
  const std::string image = MakeFile("resized.img", 16 * kMiB);
  Boot("resized", {image});
  if (HasFatalFailure()) return;
  const VmClient client(ControlSocketOf("resized"));
  const auto wait_for_size = [&](off_t bytes) {
    const std::string sectors = absl::StrCat(bytes / 512);
    // The guest hears of it by an interrupt, and takes it up by itself.
    EXPECT_EQ(Guest(absl::StrCat("i=0; while [ $(cat /sys/block/vda/size) != ", sectors,
                                 " ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done; "
                                 "cat /sys/block/vda/size")),
              sectors);
  };
  wait_for_size(16 * kMiB);
  ASSERT_EQ(truncate(image.c_str(), 24 * kMiB), 0);
  ASSERT_TRUE(client.RestartDevice("disk0").ok());
  wait_for_size(24 * kMiB);
  Guest("dd if=/dev/zero of=/dev/vda bs=1M seek=23 count=1 conv=notrunc,fsync 2>/dev/null");
  EXPECT_THAT(Guest("dmesg | grep 'new size'"), HasSubstr("49152"));

  ASSERT_EQ(truncate(image.c_str(), 8 * kMiB), 0);
  KillDiskProcess("resized");
  wait_for_size(8 * kMiB);
  Guest("dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null");
  // Each change is reported once, however many processes follow.
  ASSERT_TRUE(client.RestartDevice("disk0").ok());
  Guest("dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null");
  EXPECT_EQ(Guest("dmesg | grep -c 'new size'"), "2");
  const absl::StatusOr<ExitInfo> exit = vm_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

TEST_F(DiskMediaTest, AFailedWritebackFailsAFlushOfTheSuccessorToo) {
  // A disk that has less room than it says, as a thin pool.
  const std::string pool = TempPath("pool");
  OnHost(absl::StrCat("mkdir -p ", pool, " && mount -t tmpfs -o size=4m none ", pool));
  undo_.push_back("umount " + pool);
  OnHost(absl::StrCat("truncate -s 64M ", pool, "/image"));
  const std::string thin = Loop(absl::StrCat(pool, "/image"));
  Boot("thin", {thin});
  if (HasFatalFailure()) return;
  const std::string flush =
      "dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=notrunc,fsync 2>&1; true";
  EXPECT_THAT(Guest(flush), Not(HasSubstr("error")));
  Guest("dd if=/dev/urandom of=/dev/vda bs=1M count=16 oflag=direct conv=notrunc 2>/dev/null");
  EXPECT_THAT(Guest(flush), HasSubstr("error")) << "the process that wrote hears of it";
  EXPECT_THAT(Guest(flush), Not(HasSubstr("error"))) << "the kernel reports it once";
  KillDiskProcess("thin");
  EXPECT_THAT(Guest(flush), HasSubstr("error"))
      << "that process might have died before it reported the error to the guest";
  EXPECT_THAT(Guest(flush), Not(HasSubstr("error")));
  EXPECT_THAT(vm_->vm().log(), HasSubstr("the guest's next flush fails"));
  const absl::StatusOr<ExitInfo> exit = vm_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
}

}  // namespace
}  // namespace bulkhead::integration
