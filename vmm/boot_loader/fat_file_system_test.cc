// FAT file systems as mkfs.fat and mtools write them, whole and damaged.
#include "vmm/boot_loader/fat_file_system.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot_loader/disk.h"
#include "vmm/boot_loader/volumes.h"

namespace bulkhead::boot_loader {
namespace {

using ::testing::ElementsAre;

// Bytes of which some are replaced.
class PatchedDisk final : public Disk {
 public:
  PatchedDisk(const std::string& bytes, std::map<uint64_t, uint8_t> patches)
      : Disk(bytes.size()), bytes_(bytes), patches_(std::move(patches)) {}

 private:
  bool DoRead(uint64_t offset, absl::Span<uint8_t> out) const override {
    memcpy(out.data(), bytes_.data() + offset, out.size());
    for (auto patch = patches_.lower_bound(offset);
         patch != patches_.end() && patch->first < offset + out.size(); ++patch) {
      out[patch->first - offset] = patch->second;
    }
    return true;
  }

  const std::string& bytes_;
  const std::map<uint64_t, uint8_t> patches_;
};

struct Format {
  const char* options;
  const char* size;
};

// Of the last two, clusters are not in order, and folders take several.
class FatFileSystemTest : public ::testing::TestWithParam<Format> {
 protected:
  void SetUp() override {
    const std::string folder = absl::StrCat(::testing::TempDir(), "/fat-", getpid());
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder + "/EFI/Linux");
    std::filesystem::create_directories(folder + "/loader/entries");
    std::ofstream(folder + "/EFI/Linux/Debian-6.12.1_a-Long+Name.efi") << large_;
    std::ofstream(folder + "/loader/loader.conf") << "default x\n";
    std::ofstream(folder + "/loader/empty");
    std::ofstream(folder + "/grüße-an-alle") << "hello";
    for (int i = 0; i < 200; ++i) {
      std::ofstream(absl::StrCat(folder, "/loader/entries/a-quite-long-name-", i, ".conf")) << i;
    }
    const std::string image = folder + ".image";
    OutputOf(absl::StrCat(
        "export PATH=$PATH:/usr/sbin:/sbin; rm -f ", image, "; truncate --size=", GetParam().size,
        " ", image, " && mkfs.fat -n LABEL -i 1234abcd ", GetParam().options, " ", image,
        " && export MTOOLS_SKIP_CHECK=1 LC_ALL=C.UTF-8 && cd ", folder, " && mcopy -i ", image,
        " -s loader EFI gr* ::",
        // Leaves holes, which the next file fills.
        " && mdel -i ", image, " '::/loader/entries/*-name-?.conf' '::/loader/entries/*7.conf'",
        " && mcopy -i ", image, " EFI/Linux/*.efi ::/second"));
    std::ifstream in(image, std::ios::binary);
    image_.assign(std::istreambuf_iterator<char>(in), {});
    std::filesystem::remove_all(folder);
    std::filesystem::remove(image);
  }

  const std::string large_ = [] {
    std::string text;
    for (int i = 0; i < 60'000; ++i) absl::StrAppend(&text, i, ",");
    return text;
  }();
  std::string image_;
};

TEST_P(FatFileSystemTest, ReadsFilesAndFolders) {
  const MemoryDisk disk(image_);
  const auto opened = OpenFatFileSystem(disk);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const FileSystem& files = **opened;
  EXPECT_EQ(files.uuid(), "1234-ABCD");
  EXPECT_EQ(files.label(), "LABEL");
  for (const char* path : {"/EFI/Linux/Debian-6.12.1_a-Long+Name.efi", "/second", "//SECOND",
                           "/efi/./LINUX/debian-6.12.1_a-long+name.EFI"}) {
    EXPECT_EQ(files.FileSize(path).value_or(0), large_.size()) << path;
    EXPECT_EQ(files.ReadFile(path, 1 << 20).value_or(""), large_) << path;
    EXPECT_TRUE(absl::IsResourceExhausted(files.ReadFile(path, 1000).status()));
    for (const uint64_t offset : {1, 511, 512, 100'000}) {
      EXPECT_EQ(files.ReadFile(path, 1 << 20, {.offset = offset, .bytes = 70'001}).value_or(""),
                large_.substr(offset, 70'001));
    }
    EXPECT_EQ(files.ReadFile(path, 1, {.offset = large_.size()}).value_or("x"), "");
  }
  EXPECT_EQ(files.ReadFile("/grüße-an-alle", 100).value_or(""), "hello");
  EXPECT_EQ(files.FileSize("/loader/empty").value_or(1), 0u);
  EXPECT_EQ(files.ReadFile("/loader/empty", 100).value_or("x"), "");
  EXPECT_EQ(files.ReadFile("/loader/entries/a-quite-long-name-199.conf", 9).value_or(""), "199");
  for (const char* path : {"/no", "/EFI", "/second/x", "/EFI/..", "/LABEL", "", "/",
                           "/loader/entries/a-quite-long-name-7.conf"}) {
    EXPECT_TRUE(absl::IsNotFound(files.FileSize(path).status())) << path;
  }
  EXPECT_THAT(files.ListFolder("/loader").value_or(std::vector<std::string>()),
              ElementsAre("empty", "entries", "loader.conf"));
  EXPECT_EQ(files.ListFolder("/loader/entries").value_or(std::vector<std::string>()).size(), 171u);
  EXPECT_THAT(files.ListFolder("/").value_or(std::vector<std::string>()),
              ElementsAre("EFI", "grüße-an-alle", "loader", "second"));
  EXPECT_FALSE(files.ListFolder("/loader/empty").ok());
}

TEST_P(FatFileSystemTest, IsFoundOnADisk) {
  std::vector<std::string> log;
  const MemoryDisk disk(image_);
  const Volumes volumes = OpenVolumes(disk, log);
  ASSERT_EQ(volumes.readable.size(), 1u) << absl::StrJoin(log, "\n");
  EXPECT_THAT(log[0], ::testing::EndsWith(": FAT \"LABEL\", UUID 1234-ABCD"));
}

// As a fuzzer, but of a file system that is whole to begin with.
TEST_P(FatFileSystemTest, ADamagedOneDoesNoHarm) {
  std::vector<size_t> used;
  for (size_t i = 0; i < image_.size(); ++i) {
    if (image_[i] != 0 && image_[i] != ',' && (image_[i] < '0' || image_[i] > '9')) {
      used.push_back(i);
    }
  }
  std::minstd_rand random;
  for (int round = 0; round < 100; ++round) {
    std::map<uint64_t, uint8_t> patches;
    for (int i = 0; i < 20; ++i) {
      // Every other round in the boot sector, too: few of these open.
      const bool in_boot_sector = i == 0 && round % 2 == 0;
      const size_t at = in_boot_sector ? 11 + random() % 60 : used[random() % used.size()];
      patches[at] = static_cast<uint8_t>(random());
    }
    const PatchedDisk disk(image_, std::move(patches));
    const auto opened = OpenFatFileSystem(disk);
    if (!opened.ok()) continue;
    (*opened)->ListFolder("/loader/entries").status().IgnoreError();
    for (const char* path : {"/second", "/EFI/Linux/Debian-6.12.1_a-Long+Name.efi"}) {
      (*opened)->ReadFile(path, 1 << 20).status().IgnoreError();
    }
  }
}

// Each entry of the first FAT leads to the same cluster.
TEST_P(FatFileSystemTest, AChainThatIsALoopEnds) {
  const auto byte = [this](size_t at) { return size_t{static_cast<uint8_t>(image_[at])}; };
  if (byte(22) != 0 || byte(23) != 0) return;  // of FAT32 is enough
  const size_t fat = 512 * (byte(14) + byte(15) * 256);
  std::map<uint64_t, uint8_t> patches;
  for (size_t at = fat + 8; at < fat + 32'768; ++at) patches[at] = at % 4 == 0 ? 2 : 0;
  const PatchedDisk disk(image_, std::move(patches));
  const auto opened = OpenFatFileSystem(disk);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_LE((*opened)->ListFolder("/").value_or(std::vector<std::string>()).size(), 1000u);
  (*opened)->ReadFile("/second", 1 << 20).status().IgnoreError();
}

INSTANTIATE_TEST_SUITE_P(Formats, FatFileSystemTest,
                         ::testing::Values(Format{"-F 12 -s 4", "4M"}, Format{"-F 16", "16M"},
                                           Format{"-F 32", "34M"}, Format{"-F 32 -s 1", "40M"},
                                           Format{"-F 16 -S 4096 -s 1", "24M"}));

TEST(NoFatFileSystemTest, IsNotFound) {
  for (const std::string& bytes : {std::string(), std::string(100, '\xff'), std::string(4096, '\0'),
                                   std::string(4096, '\xff')}) {
    const MemoryDisk disk(bytes);
    EXPECT_TRUE(absl::IsNotFound(OpenFatFileSystem(disk).status()));
  }
}

}  // namespace
}  // namespace bulkhead::boot_loader
