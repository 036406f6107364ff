// Guest programs without an operating system, on the real vmm and its device processes: one
// test a mechanism.

#include <stdint.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(120);

std::string RigDevice(const std::string& more = "") {
  return absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig"), more);
}

// Runs one program to its end; expects that it passes and powers off.
void ExpectPasses(const std::string& orders, std::vector<std::string> flags) {
  flags.push_back(absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")));
  flags.push_back(absl::StrCat("--cmdline=run=", orders));
  flags.push_back("--no-reboot");  // a program that fails resets
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
  ASSERT_TRUE(vm.ok()) << vm.status();
  const absl::StatusOr<ExitInfo> exit = (*vm)->WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << (*vm)->log();
  EXPECT_THAT((*vm)->output(), EndsWith("BULKHEAD-PASS\r\n")) << (*vm)->log();
  // Only hostile requests are logged for the operator.
  for (const absl::string_view line : absl::StrSplit((*vm)->log(), '\n', absl::SkipEmpty())) {
    EXPECT_THAT(std::string(line), HasSubstr("warning: the driver must reset the device: "));
  }
}

// 1 MiB in which every 8 bytes hold their own offset.
std::string MakePatternDisk(const std::string& name) {
  std::string path = TempPath(name);
  std::ofstream out(path, std::ios::binary);
  for (uint64_t offset = 0; offset < (1 << 20); offset += sizeof(offset)) {
    out.write(reinterpret_cast<const char*>(&offset), sizeof(offset));
  }
  EXPECT_TRUE(out.flush().good());
  return path;
}

std::string MakeEmptyDisk(const std::string& name) {
  return WriteTempFile(name, std::string(64 << 10, '\0'));
}

// What a process has of something that /proc counts by entries of a folder.
size_t CountEntries(pid_t pid, const std::string& what) {
  size_t count = 0;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/", what), error)) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(BareMetalTest, OneCpuRuns) { ExpectPasses("hello", {}); }

TEST(BareMetalTest, EightCpusRun) { ExpectPasses("hello", {"--cpus=8"}); }

TEST(BareMetalTest, ThirtyTwoCpusRun) { ExpectPasses("hello", {"--cpus=32"}); }

TEST(BareMetalTest, MemoryAboveFourGibibytesIsThere) { ExpectPasses("hello", {"--memory=5G"}); }

TEST(BareMetalTest, ConfigurationSpaceIsAsDriversExpect) {
  ExpectPasses("pci_test", {RigDevice()});
}

TEST(BareMetalTest, AccessesOfEveryWidthReachTheDevice) {
  ExpectPasses("mmio_test", {RigDevice()});
}

TEST(BareMetalTest, DoorbellsNeverOvertakePostedWrites) {
  ExpectPasses("doorbell_test", {RigDevice()});
}

TEST(BareMetalTest, MsixIsDeliveredMaskedAndPending) {
  ExpectPasses("msix_test cpus=2", {RigDevice(), "--cpus=2"});
}

TEST(BareMetalTest, TheInterruptLineIsLevelTriggered) { ExpectPasses("intx_test", {RigDevice()}); }

TEST(BareMetalTest, DmaNeedsBusMasteringAndStaysInRam) { ExpectPasses("dma_test", {RigDevice()}); }

TEST(BareMetalTest, DmaReachesRamAbove4GiB) {
  ExpectPasses("dma_test", {RigDevice(), "--memory=5G"});
}

TEST(BareMetalTest, PostedWritesOfTwoCpusKeepOneTotalOrder) {
  ExpectPasses("order_test cpus=2", {RigDevice(), "--cpus=2"});
}

TEST(BareMetalTest, PostedWritesOfEightCpusKeepOneTotalOrder) {
  ExpectPasses("order_test cpus=8 writes=200", {RigDevice(), "--cpus=8"});
}

TEST(BareMetalTest, RunsOfPostedWritesUnderOneLockKeepTheirOrder) {
  ExpectPasses("order_test cpus=4 writes=400 under_lock=20", {RigDevice(), "--cpus=4"});
}

TEST(BareMetalTest, TheExampleDeviceAddsUpMemory) {
  ExpectPasses("example_test", {absl::StrCat("--device=name=example,binary=",
                                             DataFile("devices/example/example"))});
}

TEST(BareMetalTest, VirtioRngGivesBytesAndSurvivesHostileQueues) {
  ExpectPasses("virtio_rng_test", {"--rng"});
}

TEST(BareMetalTest, VirtioBlkReadsWritesAndSurvivesHostileRequests) {
  const std::string disk = MakePatternDisk("rw.img");
  ExpectPasses("virtio_blk_test pattern=1", {absl::StrCat("--disk=path=", disk)});
}

TEST(BareMetalTest, VirtioBlkWithIndirectDescriptorsAndEventIndex) {
  const std::string disk = MakePatternDisk("indirect.img");
  ExpectPasses("virtio_blk_test pattern=1 indirect=1 event_index=1",
               {absl::StrCat("--disk=path=", disk)});
}

// A doorbell or an interrupt that is missing where it is due ends this, or hangs it.
TEST(BareMetalTest, VirtioBlkServesADriverThatRingsOnlyWhenTheDeviceWantsIt) {
  const std::string disk = MakePatternDisk("rings.img");
  for (const absl::string_view event_index : {"0", "1"}) {
    ExpectPasses(absl::StrCat("bench_block modes=poll,interrupt depths=1,3 "
                              "operations=read,write cycles=30000000 event_index=",
                              event_index),
                 {absl::StrCat("--disk=path=", disk)});
  }
}

TEST(BareMetalTest, AReadOnlyDiskRefusesWrites) {
  const std::string disk = MakePatternDisk("ro.img");
  ExpectPasses("virtio_blk_test pattern=1 readonly=1",
               {absl::StrCat("--disk=path=", disk, ",readonly")});
}

TEST(BareMetalTest, AResetEndsTheVmmIfThatIsWanted) {
  const std::string disk = MakeEmptyDisk("no_reboot.img");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
       "--cmdline=run=reboot_test", absl::StrCat("--disk=path=", disk), "--no-reboot"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 3") << (*vm)->log();
  EXPECT_THAT((*vm)->output(), EndsWith("boot 1\r\n"));
}

// Runs reboot_test; a boot that finds something left of the one before says so.
void ExpectReboots(const std::string& orders, std::vector<std::string> flags) {
  flags.push_back(absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")));
  flags.push_back(absl::StrCat("--cmdline=run=reboot_test ", orders));
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
  ASSERT_TRUE(vm.ok()) << vm.status();
  const absl::StatusOr<std::string> before = (*vm)->WaitForOutput("BULKHEAD-", kTimeout);
  ASSERT_TRUE(before.ok()) << before.status();
  const absl::StatusOr<std::string> verdict = (*vm)->WaitForOutput("\n", kTimeout);
  ASSERT_TRUE(verdict.ok()) << verdict.status();
  ASSERT_EQ(*verdict, "PASS\r") << (*vm)->output();
  const absl::StatusOr<ExitInfo> exit = (*vm)->WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << (*vm)->log();
  EXPECT_EQ((*vm)->log(), "");
}

TEST(RebootTest, AResetBringsTheVmUpAgainAsAfterPowerOn) {
  const std::string disk = MakeEmptyDisk("reboot.img");
  ExpectReboots("boots=3", {absl::StrCat("--disk=path=", disk)});
}

TEST(RebootTest, AResetAmidAccessesOfOtherCpusLeavesNothingBehind) {
  const std::string disk = MakeEmptyDisk("reboot_smp.img");
  ExpectReboots("boots=5 rig=1 cpus=4",
                {absl::StrCat("--disk=path=", disk), RigDevice(), "--cpus=4"});
}

TEST(RebootTest, ResetsWithoutEndCostNothingThatLasts) {
  const std::string disk = MakeEmptyDisk("reboot_loop.img");
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--cmdline=run=reboot_test boots=40", absl::StrCat("--disk=path=", disk)});
  ASSERT_TRUE(vm.ok()) << vm.status();
  const auto at_boot = [&](int boot) -> std::pair<size_t, size_t> {
    const absl::StatusOr<std::string> output =
        (*vm)->WaitForOutput(absl::StrCat("boot ", boot, "\r"), kTimeout);
    EXPECT_TRUE(output.ok()) << output.status();
    return {CountEntries((*vm)->pid(), "fd"), CountEntries((*vm)->pid(), "task")};
  };
  const auto [descriptors, threads] = at_boot(3);
  const auto [descriptors_later, threads_later] = at_boot(35);
  // Counted while it boots again, some may be there no more or not yet.
  constexpr size_t kOfOneBoot = 20;
  EXPECT_LE(descriptors_later, descriptors + kOfOneBoot);
  EXPECT_LE(threads_later, threads + kOfOneBoot);
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->log();
}

}  // namespace
}  // namespace bulkhead::integration
