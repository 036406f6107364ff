// The partition tables and file systems of a disk.
#include "vmm/boot_loader/disk.h"

#include <stdint.h>
#include <string.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot_loader/ext_file_system.h"
#include "vmm/boot_loader/partition_table.h"
#include "vmm/boot_loader/test_disks.h"
#include "vmm/boot_loader/volumes.h"

namespace bulkhead::boot_loader {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = PartitionTable::Kind;

// "1 at 40, 20": its number, first sector and sectors.
std::vector<std::string> Partitions(const PartitionTable& table) {
  std::vector<std::string> texts;
  for (const Partition& each : table.partitions) {
    texts.push_back(
        absl::StrCat(each.number, " at ", each.start_bytes / 512, ", ", each.size_bytes / 512));
  }
  return texts;
}

TEST(PartitionTableTest, ReadsAGpt) {
  std::string bytes = GptDisk({{1, 40, 20}, {3, 100, 50}});
  const PartitionTable table = ReadPartitionTable(MemoryDisk(bytes));
  EXPECT_EQ(table.kind, Kind::kGpt);
  EXPECT_THAT(Partitions(table), ElementsAre("1 at 40, 20", "3 at 100, 50"));
}

// A disk whose backup header has the entries of the first one, and whose first header is gone.
std::string DiskWithBackup() {
  std::string bytes = GptDisk({{1, 40, 20}});
  memcpy(&bytes[bytes.size() - 512], &bytes[512], 512);
  SealGpt(bytes, bytes.size() / 512 - 1);
  memset(&bytes[512], 0, 512);
  return bytes;
}

TEST(PartitionTableTest, ReadsTheBackupIfTheFirstGptIsOverwritten) {
  EXPECT_THAT(Partitions(ReadPartitionTable(MemoryDisk(DiskWithBackup()))),
              ElementsAre("1 at 40, 20"));
}

TEST(PartitionTableTest, AnMbrHidesWhatIsLeftOfAGpt) {
  std::string bytes = DiskWithBackup();
  PutMbr(bytes, 0, {{0x83, 100, 50}});
  EXPECT_THAT(Partitions(ReadPartitionTable(MemoryDisk(bytes))), ElementsAre("1 at 100, 50"));
  bytes = GptDisk({{1, 40, 20}});
  PutMbr(bytes, 0, {{0x83, 100, 50}});
  EXPECT_THAT(Partitions(ReadPartitionTable(MemoryDisk(bytes))), ElementsAre("1 at 100, 50"));
}

TEST(PartitionTableTest, ADamagedGptDoesNotCount) {
  // A byte of the header, its own place, an entry.
  for (const size_t at : {512 + 40, 512 + 24, 1024 + 32}) {
    std::string bytes = GptDisk({{1, 40, 20}});
    bytes[at] = static_cast<char>(bytes[at] + 1);
    EXPECT_THAT(Partitions(ReadPartitionTable(MemoryDisk(bytes))), ElementsAre()) << at;
    memcpy(&bytes[bytes.size() - 512], &bytes[512], 512);
    Put(bytes, bytes.size() - 512 + 72, 2, 8);
    SealGpt(bytes, bytes.size() / 512 - 1);
    EXPECT_EQ(ReadPartitionTable(MemoryDisk(bytes)).partitions.size(), 1u) << at;
  }
}

TEST(PartitionTableTest, LeavesOutWhatIsNotOnTheDisk) {
  EXPECT_THAT(Partitions(ReadPartitionTable(MemoryDisk(
                  GptDisk({{1, 40, 1'000'000}, {2, 1'000'000, 1}, {3, 40, 20}, {4, 70, 0}})))),
              ElementsAre("3 at 40, 20"));
  EXPECT_THAT(
      Partitions(ReadPartitionTable(MemoryDisk(MbrDisk({{0x83, 40, 20}, {0x83, 40, 0xffffffff}})))),
      ElementsAre("1 at 40, 20"));
}

TEST(PartitionTableTest, ReadsAnMbrWithLogicalPartitions) {
  std::string bytes = MbrDisk({{0x83, 40, 20}, {0, 0, 0}, {0x05, 100, 100}});
  PutMbr(bytes, 100, {{0x83, 2, 20}, {0x05, 50, 50}});
  PutMbr(bytes, 150, {{0x83, 3, 30}});
  const PartitionTable table = ReadPartitionTable(MemoryDisk(bytes));
  EXPECT_EQ(table.kind, Kind::kMbr);
  EXPECT_THAT(Partitions(table), ElementsAre("1 at 40, 20", "5 at 102, 20", "6 at 153, 30"));
}

TEST(PartitionTableTest, LogicalPartitionsThatAreALoopEnd) {
  std::string bytes = MbrDisk({{0x05, 100, 100}});
  PutMbr(bytes, 100, {{0x83, 2, 20}, {0x05, 1, 50}});
  PutMbr(bytes, 101, {{0x83, 2, 20}, {0x05, 1, 50}});
  EXPECT_LE(ReadPartitionTable(MemoryDisk(bytes)).partitions.size(), 128u);
}

TEST(PartitionTableTest, FindsNoneWhereThereIsNone) {
  EXPECT_EQ(ReadPartitionTable(MemoryDisk("")).kind, Kind::kNone);
  EXPECT_EQ(ReadPartitionTable(MemoryDisk(std::string(512, '\0'))).kind, Kind::kNone);
  EXPECT_EQ(ReadPartitionTable(MemoryDisk(std::string(1 << 20, '\xff'))).kind, Kind::kNone);
}

// An ext4 image with the files of `folder`.
std::string ExtImage(const std::string& folder, const std::string& options = "") {
  const std::string image = absl::StrCat(::testing::TempDir(), "/image");
  std::filesystem::remove(image);
  OutputOf(absl::StrCat("PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -L label -U ",
                        "01234567-89ab-cdef-0123-456789abcdef ", options, " -d ", folder, " ",
                        image, " 4M"));
  std::ifstream in(image, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(bytes.size(), 4u << 20);
  return bytes;
}

class ExtFileSystemTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string folder = absl::StrCat(::testing::TempDir(), "/files");
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder + "/boot/deep");
    std::ofstream(folder + "/boot/kernel-1") << large_;
    std::ofstream(folder + "/boot/empty");
    std::filesystem::create_symlink("kernel-1", folder + "/boot/kernel");
    std::filesystem::create_symlink("/boot/deep/../kernel", folder + "/vmlinuz");
    std::filesystem::create_symlink("loop", folder + "/loop");
    std::filesystem::create_symlink("../../../etc/passwd", folder + "/out");
    disk_ = std::make_unique<MemoryDisk>(ExtImage(folder, GetParam()));
  }

  const std::string large_ = std::string(300'000, 'x') + "end";
  std::unique_ptr<Disk> disk_;
};

TEST_P(ExtFileSystemTest, ReadsFilesFoldersAndLinks) {
  const auto opened = OpenExtFileSystem(*disk_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const FileSystem& files = **opened;
  EXPECT_EQ(files.uuid(), "01234567-89ab-cdef-0123-456789abcdef");
  EXPECT_EQ(files.label(), "label");
  for (const char* path : {"/boot/kernel-1", "/boot/kernel", "/vmlinuz"}) {
    EXPECT_EQ(files.FileSize(path).value_or(0), large_.size()) << path;
    EXPECT_EQ(files.ReadFile(path, 1 << 20).value_or(""), large_) << path;
    EXPECT_TRUE(absl::IsResourceExhausted(files.ReadFile(path, 1000).status()));
  }
  EXPECT_EQ(files.FileSize("/boot/empty").value_or(1), 0u);
  for (const char* path : {"/no", "/boot", "/boot/kernel-1/x", "/out", "/loop", ""}) {
    EXPECT_FALSE(files.FileSize(path).ok()) << path;
  }
  EXPECT_TRUE(absl::IsNotFound(files.FileSize("/no").status()));
  EXPECT_THAT(files.ListFolder("/boot").value_or(std::vector<std::string>()),
              ElementsAre(".", "..", "deep", "empty", "kernel", "kernel-1"));
  EXPECT_FALSE(files.ListFolder("/boot/empty").ok());
}

INSTANTIATE_TEST_SUITE_P(Formats, ExtFileSystemTest,
                         ::testing::Values("", "-O ^extent,^64bit,^has_journal", "-b 4096 -I 128",
                                           "-O inline_data"));

TEST_P(ExtFileSystemTest, IsFoundInAPartition) {
  std::string disk = GptDisk({{2, 100, (4 << 20) / 512}}, 100 * 512 + (4 << 20) + 512);
  std::string image(4 << 20, '\0');
  ASSERT_TRUE(
      disk_->Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(image.data()), image.size())));
  memcpy(&disk[100 * 512], image.data(), image.size());
  std::vector<std::string> log;
  const MemoryDisk memory(disk);
  const Volumes volumes = OpenVolumes(memory, log);
  ASSERT_EQ(volumes.readable.size(), 1u) << absl::StrJoin(log, "\n");
  EXPECT_EQ(volumes.readable[0].device, "hd0,gpt2");
  EXPECT_EQ(volumes.readable[0].files->FileSize("/vmlinuz").value_or(0), large_.size());
  EXPECT_THAT(log, ElementsAre("(hd0,gpt2) of 4 MiB: ext2/3/4 \"label\", UUID "
                               "01234567-89ab-cdef-0123-456789abcdef"));
}

// In the product a crash would end the boot loader's process only.
TEST_P(ExtFileSystemTest, ADamagedOneDoesNoHarm) {
  std::string image(4 << 20, '\0');
  ASSERT_TRUE(
      disk_->Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(image.data()), image.size())));
  // Where something is: what lies there is damaged, not the free space.
  std::vector<size_t> used;
  for (size_t i = 1024; i < image.size(); ++i) {
    if (image[i] != 0 && image[i] != 'x') used.push_back(i);
  }
  std::minstd_rand random;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = image;
    for (int i = 0; i < 20; ++i) {
      damaged[used[random() % used.size()]] = static_cast<char>(random());
    }
    const MemoryDisk disk(damaged);
    const auto opened = OpenExtFileSystem(disk);
    if (!opened.ok()) continue;
    (*opened)->ListFolder("/boot").status().IgnoreError();
    for (const char* path : {"/vmlinuz", "/boot/kernel-1", "/boot/deep/x"}) {
      (*opened)->ReadFile(path, 1 << 20).status().IgnoreError();
    }
  }
}

TEST(VolumesTest, NamesWhatCannotBeRead) {
  const auto log_of = [](std::string bytes) {
    std::vector<std::string> log;
    const MemoryDisk disk(std::move(bytes));
    OpenVolumes(disk, log);
    return absl::StrJoin(log, "\n");
  };
  std::string disk(1 << 20, '\0');
  EXPECT_EQ(log_of(disk), "(hd0) of 1 MiB: no ext2, ext3, ext4 or FAT file system");
  memcpy(disk.data(), "QFI\xfb", 4);
  EXPECT_THAT(log_of(disk), HasSubstr("qemu-img convert -O raw"));
  memcpy(disk.data(), "XFSB", 4);
  EXPECT_THAT(log_of(disk), HasSubstr("XFS; only ext2, ext3, ext4 and FAT are read"));
}

}  // namespace
}  // namespace bulkhead::boot_loader
