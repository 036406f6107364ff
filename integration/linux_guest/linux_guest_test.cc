// An unmodified Debian kernel with every device in a process of its own.

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::UnorderedElementsAre;

std::string Sha256(const std::string& path) { return OutputOf("sha256sum " + path).substr(0, 64); }

void MakeRandomFile(const std::string& path, size_t bytes) {
  std::mt19937_64 random(std::random_device{}());
  std::ofstream out(path, std::ios::binary);
  for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    const uint64_t word = random();
    out.write(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  ASSERT_TRUE(out.flush().good());
}

void MakeEmptyFile(const std::string& path, size_t bytes) {
  std::ofstream(path).flush();
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(bytes)), 0);
}

// The output of a command in the guest; fails the test if the command fails.
#define GUEST(shell, ...)                                                       \
  ({                                                                            \
    const absl::StatusOr<std::string> guest_output = (shell)->Run(__VA_ARGS__); \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status();                    \
    *guest_output;                                                              \
  })

TEST(LinuxGuestTest, BootsOnTwoProcessorsWithAllDevicesAndPowersOff) {
  const std::string random_disk = TempPath("random.img");
  const std::string fs_disk = TempPath("fs.img");
  MakeRandomFile(random_disk, 8 << 20);
  MakeEmptyFile(fs_disk, 32 << 20);
  absl::StatusOr<std::unique_ptr<GuestShell>> booted =
      GuestShell::Boot({"--name=linux", "--cpus=2", "--memory=256M",
                        absl::StrCat("--disk=path=", random_disk, ",readonly"),
                        absl::StrCat("--disk=path=", fs_disk), "--rng"});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const std::unique_ptr<GuestShell>& guest = *booted;

  std::vector<std::string> device_processes;
  for (const VmProcess::Child& child : guest->vm().Children()) {
    device_processes.push_back(child.name);
  }
  EXPECT_THAT(device_processes,
              UnorderedElementsAre("virtio_blk", "virtio_blk", "virtio_rng", "uart16550"));

  // The shell outlives a background job that ends while it waits for a command.
  GUEST(guest, "(until [ -e /tmp/go ]; do sleep 0.1; done; touch /tmp/gone) &");
  GUEST(guest, "touch /tmp/go");
  absl::SleepFor(absl::Seconds(2));
  EXPECT_EQ(GUEST(guest, "ls /tmp/gone"), "/tmp/gone");

  EXPECT_THAT(GUEST(guest, "uname -r"), MatchesRegex("6\\.1\\..*-cloud-amd64"));
  EXPECT_EQ(GUEST(guest, "cat /sys/devices/system/cpu/online"), "0-1");
  EXPECT_EQ(GUEST(guest, "grep -c ^processor /proc/cpuinfo"), "2");

  // The disk reads back what the host wrote; writing to it is refused.
  EXPECT_EQ(GUEST(guest, "sha256sum < /dev/vda").substr(0, 64), Sha256(random_disk));
  EXPECT_EQ(GUEST(guest, "cat /sys/block/vda/ro"), "1");

  // Entropy: two reads that differ.
  const std::string read_entropy = "dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum";
  const std::string first_entropy = GUEST(guest, read_entropy);
  EXPECT_NE(first_entropy, GUEST(guest, read_entropy));
  EXPECT_EQ(GUEST(guest, "cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");

  // Every virtio device survives that its driver lets go of it and takes it again.
  const std::string drivers = GUEST(guest,
                                    "for d in /sys/bus/virtio/devices/*; do "
                                    "echo $(basename $d) $(basename $(readlink $d/driver)); done");
  std::set<std::string> rebound;
  for (absl::string_view line : absl::StrSplit(drivers, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    ASSERT_EQ(words.size(), 2u) << line;
    const std::string folder = absl::StrCat("/sys/bus/virtio/drivers/", words[1]);
    GUEST(guest, absl::StrCat("echo ", words[0], " > ", folder, "/unbind && echo ", words[0], " > ",
                              folder, "/bind"));
    rebound.insert(words[1]);
  }
  EXPECT_THAT(rebound, UnorderedElementsAre("virtio_blk", "virtio_rng"));
  EXPECT_EQ(GUEST(guest, "sha256sum < /dev/vda").substr(0, 64), Sha256(random_disk));
  EXPECT_NE(first_entropy, GUEST(guest, read_entropy));
  // And a whole PCI function its PCI driver.
  GUEST(guest,
        "f=$(basename $(readlink -f /sys/block/vda/device/..)) && "
        "echo $f > /sys/bus/pci/drivers/virtio-pci/unbind && [ ! -e /dev/vda ] && "
        "echo $f > /sys/bus/pci/drivers/virtio-pci/bind");
  EXPECT_EQ(GUEST(guest, "sha256sum < /dev/vda").substr(0, 64), Sha256(random_disk));

  // A file system made, filled and synced in the guest.
  GUEST(guest,
        "modprobe ext4 && mke2fs -q -F /dev/vdb && mkdir -p /mnt/fs && "
        "mount -t ext4 /dev/vdb /mnt/fs");
  GUEST(guest,
        "for i in 1 2 3 4; do dd if=/dev/urandom of=/mnt/fs/file$i bs=64k count=32 "
        "2>/dev/null || exit 1; done; rm /mnt/fs/file3");
  const std::string sums = GUEST(guest, "cd /mnt/fs && sha256sum file1 file2 file4 && cd /");
  GUEST(guest, "sync && umount /mnt/fs");
  // Not one warning or error in its kernel log (levels 0 to 4), beside what it says of the
  // 128-byte inodes of busybox's mke2fs.
  EXPECT_EQ(guest->KernelErrors("timestamps until 2038").value_or("unknown"), "");

  // A pause leaves no trace in the guest.
  const VmClient client(ControlSocketOf("linux"));
  ASSERT_TRUE(client.Pause().ok());
  absl::SleepFor(absl::Seconds(2));
  ASSERT_TRUE(client.Resume().ok());
  EXPECT_EQ(guest->KernelErrors("timestamps until 2038").value_or("unknown"), "");

  // The power button.
  ASSERT_TRUE(client.Shutdown().ok());
  const absl::StatusOr<std::string> pressed =
      guest->vm().WaitForOutput("BULKHEAD-POWER-BUTTON", absl::Seconds(60));
  EXPECT_TRUE(pressed.ok()) << pressed.status();
  const absl::StatusOr<ExitInfo> exit = guest->vm().WaitForExit(absl::Seconds(60));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");

  OutputOf("/sbin/e2fsck -f -n " + fs_disk);
  std::string host_sums;
  for (const char* name : {"file1", "file2", "file4"}) {
    OutputOf(absl::StrCat("/sbin/debugfs -R 'dump /", name, " ", TempPath(name), "' ", fs_disk));
    absl::StrAppend(&host_sums, host_sums.empty() ? "" : "\n", Sha256(TempPath(name)), "  ", name);
  }
  EXPECT_EQ(host_sums, sums);
}

TEST(LinuxGuestTest, ABzImageWithoutMsiRunsOnLineInterruptsAndReboots) {
  const std::string disk = TempPath("intx.img");
  MakeRandomFile(disk, 1 << 20);
  absl::StatusOr<std::unique_ptr<GuestShell>> booted =
      GuestShell::Boot({absl::StrCat("--kernel=", DataFile("external/debian_guest_kernel/bzImage")),
                        "--memory=256M", absl::StrCat("--disk=path=", disk), "--rng"},
                       "pci=nomsi", /*reboots=*/true);
  ASSERT_TRUE(booted.ok()) << booted.status();
  const std::unique_ptr<GuestShell>& guest = *booted;
  EXPECT_THAT(GUEST(guest, "cat /proc/interrupts"), HasSubstr("IO-APIC"));
  EXPECT_EQ(GUEST(guest, "grep -c MSI /proc/interrupts || true"), "0");
  EXPECT_EQ(GUEST(guest, "sha256sum < /dev/vda").substr(0, 64), Sha256(disk));
  const std::string boot_id = GUEST(guest, "cat /proc/sys/kernel/random/boot_id");
  // In the middle of I/O, which nobody waits for any more.
  GUEST(guest, "(while :; do cat /dev/vda /dev/hwrng | head -c 4000000 > /dev/null; done) &");

  const std::vector<VmProcess::Child> devices = guest->vm().Children();
  const absl::Status rebooted = guest->Reboot();
  ASSERT_TRUE(rebooted.ok()) << rebooted;
  EXPECT_NE(GUEST(guest, "cat /proc/sys/kernel/random/boot_id"), boot_id);
  EXPECT_EQ(GUEST(guest, "sha256sum < /dev/vda").substr(0, 64), Sha256(disk));
  EXPECT_EQ(GUEST(guest, "head -c 32 /dev/hwrng | wc -c"), "32");
  EXPECT_EQ(guest->KernelErrors().value_or("unknown"), "");
  for (const VmProcess::Child& device : devices) {
    EXPECT_EQ(kill(device.pid, 0), 0) << device.name << " is not the process of the first boot";
  }
  const absl::StatusOr<ExitInfo> exit = guest->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

TEST(LinuxGuestTest, FourProcessorsShareADiskOfFourQueuesWhichZeroesAndDiscards) {
  constexpr size_t kMiB = 1 << 20;
  const std::string disk = TempPath("queues.img");
  MakeRandomFile(disk, 8 * kMiB);
  const std::string before = OutputOf("cat " + disk);
  absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(
      {"--memory=256M", "--cpus=4",
       absl::StrCat("--device=name=disk0,binary=virtio_blk,arg=--queues=4,file:disk=", disk)});
  ASSERT_TRUE(booted.ok()) << booted.status();
  const std::unique_ptr<GuestShell>& guest = *booted;
  EXPECT_EQ(GUEST(guest, "nproc"), "4");
  EXPECT_EQ(GUEST(guest, "ls /sys/block/vda/mq | wc -l"), "4");
  // Each processor has a queue of its own: a MiB through each.
  GUEST(guest,
        "for i in 0 1 2 3; do (taskset $((1 << i)) dd if=/dev/vda of=/dev/vda bs=64k iflag=direct "
        "oflag=direct count=16 skip=$((i * 16)) seek=$((64 + i * 16)) conv=notrunc 2>/dev/null || "
        "echo failed) & done; wait");
  GUEST(guest, "blkzeroout /dev/vda 1048576 1048576");
  EXPECT_NE(GUEST(guest, "cat /sys/block/vda/queue/discard_max_bytes"), "0");
  GUEST(guest, "blkdiscard -o 2097152 -l 1048576 /dev/vda");
  EXPECT_EQ(guest->KernelErrors().value_or("unknown"), "");
  const absl::StatusOr<ExitInfo> exit = guest->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");

  const std::string after = OutputOf("cat " + disk);
  ASSERT_EQ(after.size(), before.size());
  const std::string zeroes(kMiB, '\0');
  const auto part = [&](const std::string& text, size_t mib) {
    return text.substr(mib * kMiB, kMiB);
  };
  for (size_t mib = 0; mib < 8; ++mib) {
    const bool zeroed = mib == 1 || mib == 2;
    const std::string wanted = zeroed ? zeroes : part(before, mib < 4 ? mib : mib - 4);
    EXPECT_TRUE(part(after, mib) == wanted) << "MiB " << mib;
  }
}

}  // namespace
}  // namespace bulkhead::integration
