#include "devices/virtio_blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "devices/virtio_blk/block_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kDefaultPhysicalBlock = 4096;
constexpr uint32_t kMaxPhysicalBlock = 64 * 1024;

bool PlausibleBlock(uint64_t size) {
  return std::has_single_bit(size) && size >= kSectorSize && size <= kMaxPhysicalBlock;
}

bool KnowsNowait(int fd) {
  uint8_t byte;
  const iovec buffer{&byte, 1};
  return preadv2(fd, &buffer, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN;
}

}  // namespace

absl::StatusOr<DiskFile> AdoptDisk(UniqueFd fd, bool read_only) {
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0) return ErrnoToStatus(errno, "disk: F_GETFL");
  if ((flags & O_ACCMODE) == O_WRONLY) {
    return absl::InvalidArgumentError("disk: was opened for writing only");
  }
  if ((flags & O_DIRECT) != 0) {
    return absl::InvalidArgumentError(
        "disk: was opened with O_DIRECT; what it writes could outlive this process");
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, "disk: fstat");

  DiskFile disk;
  disk.read_only = read_only || (flags & O_ACCMODE) == O_RDONLY;
  disk.physical_block_size = kDefaultPhysicalBlock;
  uint64_t size_bytes = 0;
  if (S_ISREG(info.st_mode)) {
    size_bytes = static_cast<uint64_t>(info.st_size);
    const uint64_t block = static_cast<uint64_t>(info.st_blksize);
    if (PlausibleBlock(block)) disk.physical_block_size = static_cast<uint32_t>(block);
  } else if (S_ISBLK(info.st_mode)) {
    disk.is_block_device = true;
    if (ioctl(fd.get(), BLKGETSIZE64, &size_bytes) != 0) {
      return ErrnoToStatus(errno, "disk: BLKGETSIZE64");
    }
    int device_read_only = 0;
    if (ioctl(fd.get(), BLKROGET, &device_read_only) == 0 && device_read_only != 0) {
      disk.read_only = true;
    }
    unsigned block = 0;
    if (ioctl(fd.get(), BLKPBSZGET, &block) == 0 && PlausibleBlock(block)) {
      disk.physical_block_size = block;
    }
  } else {
    return absl::InvalidArgumentError("disk: is neither a regular file nor a block device");
  }
  disk.sectors = size_bytes / kSectorSize;
  if (disk.sectors == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk: has ", size_bytes, " bytes, less than one sector"));
  }
  if (const uint64_t rest = size_bytes % kSectorSize; rest != 0) {
    LogWarning(absl::StrCat("disk: the last ", rest, " of its ", size_bytes,
                            " bytes fill no sector: the guest does not see them"));
  }
  disk.knows_nowait = KnowsNowait(fd.get());
  disk.fd = std::move(fd);
  return disk;
}

}  // namespace bulkhead::devices::virtio
