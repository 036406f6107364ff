#include "devices/virtio_blk/disk_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/memory_mapping.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

// A file of that size that has no name any more, opened with `flags`.
UniqueFd TemporaryFile(off_t size, int flags) {
  std::string path = testing::TempDir() + "/diskXXXXXX";
  const UniqueFd creator(mkstemp(path.data()));
  EXPECT_EQ(ftruncate(creator.get(), size), 0);
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  unlink(path.c_str());
  EXPECT_TRUE(fd.ok());
  return fd;
}

TEST(DiskFileTest, AWritableFileIsAWritableDisk) {
  const DiskFile disk = AdoptDisk(TemporaryFile(8192, O_RDWR), false).value();
  EXPECT_EQ(disk.sectors, 16u);
  EXPECT_FALSE(disk.read_only);
  EXPECT_GE(disk.physical_block_size, 512u);
}

TEST(DiskFileTest, ADiskIsReadOnlyByItsDescriptorOrByRequest) {
  EXPECT_TRUE(AdoptDisk(TemporaryFile(512, O_RDONLY), false)->read_only);
  EXPECT_TRUE(AdoptDisk(TemporaryFile(512, O_RDWR), true)->read_only);
}

TEST(DiskFileTest, AnIncompleteLastSectorIsNotShown) {
  EXPECT_EQ(AdoptDisk(TemporaryFile(1500, O_RDWR), false)->sectors, 2u);
}

// On ext4 a write into a hole keeps others away.
TEST(DiskFileTest, OnlyALocalFileWithoutHolesTakesParallelWrites) {
  UniqueFd sparse = TemporaryFile(1 << 20, O_RDWR);
  UniqueFd full = TemporaryFile(1 << 20, O_RDWR);
  const std::string bytes(1 << 20, 'x');
  ASSERT_EQ(pwrite(full.get(), bytes.data(), bytes.size(), 0), ssize_t{1} << 20);
  struct statfs file_system;
  ASSERT_EQ(fstatfs(full.get(), &file_system), 0);
  const bool is_local =
      file_system.f_type == EXT4_SUPER_MAGIC || file_system.f_type == XFS_SUPER_MAGIC;
  EXPECT_FALSE(AdoptDisk(std::move(sparse), false)->knows_parallel_writes);
  EXPECT_EQ(AdoptDisk(std::move(full), false)->knows_parallel_writes, is_local);
}

TEST(DiskFileTest, WhatIsNoDiskIsRefused) {
  EXPECT_EQ(AdoptDisk(TemporaryFile(512, O_WRONLY), false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AdoptDisk(TemporaryFile(511, O_RDWR), false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AdoptDisk(UniqueFd(open("/dev/null", O_RDWR)), false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(AdoptDisk(UniqueFd(open("/", O_RDONLY)), false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(AdoptDisk(UniqueFd(), false).ok());
}

// Every request would fail with EAGAIN on dm-crypt and its like, on Linux before 6.10.
TEST(DiskFileTest, AFileThatIsOpenWithoutBlockingIsRefused) {
  const absl::Status status = AdoptDisk(TemporaryFile(8192, O_RDWR | O_NONBLOCK), false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("O_NONBLOCK"), std::string::npos) << status;
}

TEST(DiskFileTest, AFileOnTmpfsIsInMemory) {
  UniqueFd file = CreateMemfd("disk", 8192).value();
  EXPECT_TRUE(AdoptDisk(std::move(file), false)->is_in_memory);
  EXPECT_FALSE(AdoptDisk(TemporaryFile(8192, O_RDWR), false)->is_in_memory)
      << "the folder for temporary files is on a disk where tests run";
}

TEST(DiskFileTest, DirectIoHasItsAlignment) {
  const DiskFile buffered = AdoptDisk(TemporaryFile(8192, O_RDWR), false).value();
  EXPECT_FALSE(buffered.is_direct());
  EXPECT_TRUE(buffered.knows_nowait);
  const DiskFile direct =
      AdoptDisk(TemporaryFile(8192 + 512 + 5, O_RDWR | O_DIRECT), false).value();
  EXPECT_TRUE(direct.is_direct());
  EXPECT_GE(direct.direct_alignment, 512u);
  EXPECT_GE(direct.memory_alignment, 1u);
  EXPECT_EQ(direct.sectors, direct.direct_alignment == 512 ? 17u : 16u);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
