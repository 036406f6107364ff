#include "devices/virtio_blk/disk_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <utility>

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

TEST(DiskFileTest, DirectIoIsRefusedForItOutlivesTheProcess) {
  UniqueFd fd = TemporaryFile(8192, O_RDWR);
  // A file system that knows no direct I/O cannot give such a descriptor either.
  if (fcntl(fd.get(), F_SETFL, O_DIRECT) != 0) return;
  const absl::Status status = AdoptDisk(std::move(fd), false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("O_DIRECT"), std::string::npos) << status;
}

}  // namespace
}  // namespace bulkhead::devices::virtio
