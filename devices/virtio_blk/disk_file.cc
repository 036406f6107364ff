#include "devices/virtio_blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/side_thread.h"
#include "base/status_macros.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "devices/virtio_blk/block_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kDefaultPhysicalBlock = 4096;
constexpr uint32_t kMaxPhysicalBlock = 64 * 1024;

bool PlausibleBlock(uint64_t size) {
  return std::has_single_bit(size) && size >= kSectorSize && size <= kMaxPhysicalBlock;
}

// Asks at the end of the file: no file system reads anything for that.
bool KnowsNowait(int fd, uint64_t size_bytes) {
  // As direct I/O wants it.
  alignas(4096) static uint8_t block[kMaxPhysicalBlock];
  const iovec buffer{block, sizeof(block)};
  const uint64_t end = (size_bytes + sizeof(block) - 1) / sizeof(block) * sizeof(block);
  const off_t position = end <= INT64_MAX / 2 ? static_cast<off_t>(end) : 0;
  return preadv2(fd, &buffer, 1, position, RWF_NOWAIT) >= 0 || errno == EAGAIN;
}

// What direct I/O on the file wants.
absl::Status FindAlignment(bool is_block_device, DiskFile& disk, int fd) {
  // Where the kernel does not tell (before Linux 6.1): the largest block that disks have.
  disk.direct_alignment = disk.memory_alignment = kDefaultPhysicalBlock;
  struct statx info = {};
  unsigned block = 0;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    disk.direct_alignment = info.stx_dio_offset_align;
    disk.memory_alignment = info.stx_dio_mem_align;
  } else if (is_block_device && ioctl(fd, BLKSSZGET, &block) == 0) {
    disk.direct_alignment = disk.memory_alignment = block;
  }
  disk.direct_alignment = std::max<uint32_t>(disk.direct_alignment, kSectorSize);
  if (!PlausibleBlock(disk.direct_alignment) || !std::has_single_bit(disk.memory_alignment) ||
      disk.memory_alignment > kDefaultPhysicalBlock) {
    return absl::InvalidArgumentError(absl::StrCat("disk: direct I/O wants positions aligned to ",
                                                   disk.direct_alignment, " and memory to ",
                                                   disk.memory_alignment, " bytes: not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DiskFile> AdoptDisk(UniqueFd fd, bool read_only) {
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0) return ErrnoToStatus(errno, "disk: F_GETFL");
  if ((flags & O_ACCMODE) == O_WRONLY) {
    return absl::InvalidArgumentError("disk: is open for writing only; must be open for reading");
  }
  // Linux before 6.10 then answers EAGAIN for ever on some devices (dm-crypt).
  if ((flags & O_NONBLOCK) != 0) {
    return absl::InvalidArgumentError("disk: is open with O_NONBLOCK; must be open without");
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
    struct statfs file_system;
    if (fstatfs(fd.get(), &file_system) == 0) {
      disk.is_in_memory = file_system.f_type == TMPFS_MAGIC;
      disk.knows_nowait_writes = file_system.f_type == XFS_SUPER_MAGIC;
      const bool is_local =
          file_system.f_type == EXT4_SUPER_MAGIC || file_system.f_type == XFS_SUPER_MAGIC;
      constexpr uint64_t kStatBlock = 512;  // stat(2)
      disk.knows_parallel_writes =
          is_local && static_cast<uint64_t>(info.st_blocks) * kStatBlock >= size_bytes;
    }
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
  if ((flags & O_DIRECT) != 0) {
    RETURN_IF_ERROR(FindAlignment(disk.is_block_device, disk, fd.get()));
    disk.physical_block_size = std::max(disk.physical_block_size, disk.direct_alignment);
  }
  const uint64_t unit = std::max<uint64_t>(kSectorSize, disk.direct_alignment);
  disk.sectors = size_bytes / unit * (unit / kSectorSize);
  if (disk.sectors == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("disk: has ", size_bytes, " bytes, less than one sector"));
  }
  if (const uint64_t rest = size_bytes % unit; rest != 0) {
    LogWarning(absl::StrCat("disk: the last ", rest, " of its ", size_bytes,
                            " bytes fill no sector: the guest does not see them"));
  }
  disk.knows_nowait = KnowsNowait(fd.get(), size_bytes);
  disk.fd = std::move(fd);
  return disk;
}

absl::StatusOr<DiskFile> AdoptDiskInTime(UniqueFd fd, bool read_only, absl::Duration timeout) {
  struct Adoption {
    absl::Mutex mutex;
    SteadyCondVar changed;
    UniqueFd fd;
    std::optional<absl::StatusOr<DiskFile>> disk ABSL_GUARDED_BY(mutex);
  };
  const auto adoption = std::make_shared<Adoption>();
  adoption->fd = std::move(fd);
  SideThread side;
  side.Add([adoption, read_only] {
    absl::StatusOr<DiskFile> disk = AdoptDisk(std::move(adoption->fd), read_only);
    absl::MutexLock lock(&adoption->mutex);
    adoption->disk = std::move(disk);
    adoption->changed.SignalAll();
  });
  const absl::Time deadline = SteadyNow() + timeout;
  absl::MutexLock lock(&adoption->mutex);
  while (!adoption->disk.has_value()) {
    if (!adoption->changed.WaitUntil(&adoption->mutex, deadline)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "disk: its file system has not answered for ", absl::FormatDuration(timeout)));
    }
  }
  return *std::exchange(adoption->disk, std::nullopt);
}

}  // namespace bulkhead::devices::virtio
