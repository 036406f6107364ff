// Files by their paths, mounts, and the disk.
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "integration/escape/attempts.h"

namespace bulkhead::integration {
namespace {

void AddDiskAttempts(const Surroundings& around, std::vector<Attempt>& attempts) {
  const std::vector<int>& disk = around.disk;
  const std::string again = absl::StrCat("/proc/self/fd/", disk[0]);
  const struct flock all = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
  struct flock none = all;
  none.l_type = F_UNLCK;
  const int read_write = PROT_READ | PROT_WRITE;
  const uint32_t flags = FS_NOATIME_FL;
  const iovec one = {.iov_base = nullptr, .iov_len = 1};
  const Argument byte = AddressOf(one, {{offsetof(iovec, iov_base), "x"}});
  const Attempt rows[] = {
      {"open the disk again, to write", kEmptyRoot, {{SYS_openat, {AT_FDCWD, again, O_RDWR}}}},
      {"link the disk",
       kEmptyRoot,
       {{SYS_linkat, {Each(), "", AT_FDCWD, "/disk", AT_EMPTY_PATH}}},
       disk},
      {"fchmod of the disk", kOwnUser, {{SYS_fchmod, {Each(), 0666}}}, disk},
      {"fchown of the disk", kOwnUser, {{SYS_fchown, {Each(), 0, 0}}}, disk},
      {"fsetxattr of the disk", kOwnUser, {{SYS_fsetxattr, {Each(), "user.x", "x", 1, 0}}}, disk},
      {"FS_IOC_SETFLAGS of the disk",
       kOtherUser,
       {{SYS_ioctl, {Each(), FS_IOC_SETFLAGS, AddressOf(flags)}}},
       disk},
      {"F_SETLEASE on the disk", kOwnUser, {{SYS_fcntl, {Each(), F_SETLEASE, F_RDLCK}}}, disk},
      {"F_NOTIFY on the disk", kNotPossible, {{SYS_fcntl, {Each(), F_NOTIFY, DN_MODIFY}}}, disk},
      {"lock all of the disk",
       "the vmm's own lock",
       {{SYS_fcntl, {Each(), F_OFD_SETLK, AddressOf(all)}}},
       disk},
      // The test checks that the vmm's lock stays.
      {"unlock the disk", kInside, {{SYS_fcntl, {Each(), F_OFD_SETLK, AddressOf(none)}}}, disk},
      {"flock of the disk", kInside, {{SYS_flock, {Each(), LOCK_EX | LOCK_NB}}}, disk},
      {"sync its file system", kSeccompAlone, {{SYS_syncfs, {Each()}}}, disk},
      {"name_to_handle_at of the disk",
       kInside,
       {{SYS_name_to_handle_at, {Each(), "", Zeros(8), Zeros(4), AT_EMPTY_PATH}}},
       disk},
      {"execute the disk",
       kEmptyRoot,
       {{SYS_execveat, {Each(), "", Zeros(8), Zeros(8), AT_EMPTY_PATH}}},
       disk},
      {"quotactl_fd of the disk",
       kOtherUser,
       {{SYS_quotactl_fd, {Each(), QCMD(Q_GETQUOTA, USRQUOTA), 0, Zeros(128)}}},
       disk},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
  if (!around.disk_is_read_only) {
    const Attempt own[] = {
        {"ftruncate of the disk",
         kSeccompAlone,
         {{SYS_ftruncate, {Each(), around.disk_bytes}}},
         disk},
        {"write beyond the end of the disk",
         kFileSize,
         {{SYS_pwritev2, {Each(), byte, 1, around.disk_bytes, 0, 0}}},
         disk},
        {"fallocate beyond the end of the disk",
         kFileSize,
         {{SYS_fallocate, {Each(), 0, around.disk_bytes, 4096}}},
         disk},
    };
    attempts.insert(attempts.end(), std::begin(own), std::end(own));
    return;
  }
  const Attempt writes[] = {
      {"write the read-only disk", kOpenMode, {{SYS_write, {Each(), "x", 1}}}, disk},
      {"pwrite the read-only disk", kOpenMode, {{SYS_pwrite64, {Each(), "x", 1, 0}}}, disk},
      {"pwritev2 of the read-only disk",
       kOpenMode,
       {{SYS_pwritev2, {Each(), byte, 1, 0, 0, 0}}},
       disk},
      {"map the read-only disk, to write",
       kOpenMode,
       {{SYS_mmap, {0, 4096, read_write, MAP_SHARED, Each(), 0}}},
       disk},
      {"ftruncate of the read-only disk", kOpenMode, {{SYS_ftruncate, {Each(), 0}}}, disk},
      {"fallocate in the read-only disk", kOpenMode, {{SYS_fallocate, {Each(), 0, 0, 4096}}}, disk},
      {"punch a hole into the read-only disk",
       kOpenMode,
       {{SYS_fallocate, {Each(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096}}},
       disk},
  };
  attempts.insert(attempts.end(), std::begin(writes), std::end(writes));
}

}  // namespace

void AddFileAttempts(const Surroundings& around, std::vector<Attempt>& attempts) {
  const std::string vmm = absl::StrCat("/proc/", around.vmm);
  const std::string up = "../../../../../../../../etc/passwd";
  const std::string kvm_node = "/kvm";
  const open_how how = {.flags = O_RDONLY, .mode = 0, .resolve = 0};
  const struct {
    unsigned size = 8;  // as in file_handle
    int type = 1;
    char bytes[8] = {};
  } handle;
  const mount_attr writable = {
      .attr_set = 0, .attr_clr = MOUNT_ATTR_RDONLY, .propagation = 0, .userns_fd = 0};
  const Attempt rows[] = {
      {"open /", kEmptyRoot, {{SYS_open, {"/", O_RDONLY, 0}}}},
      {"openat /", kEmptyRoot, {{SYS_openat, {AT_FDCWD, "/", O_RDONLY, 0}}}},
      {"openat2 /", kEmptyRoot, {{SYS_openat2, {AT_FDCWD, "/", AddressOf(how), sizeof(how)}}}},
      {"openat /proc", kEmptyRoot, {{SYS_openat, {AT_FDCWD, "/proc", O_RDONLY}}}},
      {"openat /proc/self/mem", kEmptyRoot, {{SYS_openat, {AT_FDCWD, "/proc/self/mem", O_RDWR}}}},
      {"openat the vmm's memory",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, absl::StrCat(vmm, "/mem"), O_RDWR}}}},
      {"openat the vmm's descriptors",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, absl::StrCat(vmm, "/fd"), O_RDONLY}}}},
      {"openat /dev/kvm", kEmptyRoot, {{SYS_openat, {AT_FDCWD, "/dev/kvm", O_RDWR}}}},
      {"openat /dev/mem", kEmptyRoot, {{SYS_openat, {AT_FDCWD, "/dev/mem", O_RDWR}}}},
      {"openat /sys/fs/cgroup", kEmptyRoot, {{SYS_openat, {AT_FDCWD, "/sys/fs/cgroup", O_RDONLY}}}},
      {"openat upwards", kEmptyRoot, {{SYS_openat, {AT_FDCWD, up, O_RDONLY}}}},
      {"openat another device's disk",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, around.other_disk, O_RDWR}}}},
      {"openat the control socket",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, around.control_socket, O_RDWR}}}},
      {"openat a new file",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, around.new_file, O_CREAT | O_WRONLY, 0600}}}},
      {"openat a new file in /",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, "x", O_CREAT | O_WRONLY, 0600}}}},
      {"openat a file without a name",
       kEmptyRoot,
       {{SYS_openat, {AT_FDCWD, "/", O_TMPFILE | O_RDWR, 0600}}}},
      {"creat", kEmptyRoot, {{SYS_creat, {around.new_file, 0600}}}},
      {"openat from each descriptor",
       kNotPossible,
       {{SYS_openat, {Each(), "..", O_RDONLY}}},
       around.descriptors},
      {"getdents64 of each descriptor",
       kNotPossible,
       {{SYS_getdents64, {Each(), Zeros(512), 512}}},
       around.descriptors},
      {"fchdir to each descriptor", kNotPossible, {{SYS_fchdir, {Each()}}}, around.descriptors},
      {"open_by_handle_at",
       kNoCapabilities,
       {{SYS_open_by_handle_at, {AT_FDCWD, AddressOf(handle), O_RDONLY}}}},
      {"stat of a path", kNoFiles, {{SYS_newfstatat, {AT_FDCWD, "/etc/passwd", Zeros(144), 0}}}},
      {"statx of a path",
       kNoFiles,
       {{SYS_statx, {AT_FDCWD, "/etc/passwd", 0, STATX_ALL, Zeros(256)}}}},
      {"readlink", kNoFiles, {{SYS_readlink, {"/proc/self/exe", Zeros(64), 64}}}},
      {"access", kNoFiles, {{SYS_access, {"/etc/passwd", R_OK}}}},
      {"mknod of /dev/kvm",
       kEmptyRoot,
       {{SYS_mknod, {kvm_node, S_IFCHR | 0666, makedev(10, 232)}}}},
      {"mkdir", kEmptyRoot, {{SYS_mkdir, {"/x", 0700}}}},
      {"rmdir", kEmptyRoot, {{SYS_rmdir, {"/x"}}}},
      {"link", kEmptyRoot, {{SYS_link, {around.other_disk, "/x"}}}},
      {"symlink", kEmptyRoot, {{SYS_symlink, {"/etc", "/x"}}}},
      {"rename", kEmptyRoot, {{SYS_rename, {around.other_disk, "/x"}}}},
      {"unlink", kEmptyRoot, {{SYS_unlink, {around.other_disk}}}},
      {"chmod", kEmptyRoot, {{SYS_chmod, {"/", 0777}}}},
      {"chown", kNoFiles, {{SYS_chown, {"/", -1, -1}}}},
      {"truncate", kEmptyRoot, {{SYS_truncate, {around.other_disk, 0}}}},
      {"setxattr", kEmptyRoot, {{SYS_setxattr, {"/", "user.x", "x", 1, 0}}}},
      {"utimensat", kEmptyRoot, {{SYS_utimensat, {AT_FDCWD, "/", 0, 0}}}},
      {"mount", kNoCapabilities, {{SYS_mount, {"none", "/", "tmpfs", 0, 0}}}},
      {"mount of proc", kNoCapabilities, {{SYS_mount, {"proc", "/", "proc", 0, 0}}}},
      {"mount, to make / writable",
       kNoCapabilities,
       {{SYS_mount, {0, "/", 0, MS_REMOUNT | MS_BIND, 0}}}},
      {"umount2", kNoCapabilities, {{SYS_umount2, {"/", MNT_DETACH}}}},
      {"pivot_root", kNoCapabilities, {{SYS_pivot_root, {".", "."}}}},
      {"chroot", kNoCapabilities, {{SYS_chroot, {"/"}}}},
      {"move_mount", kNoCapabilities, {{SYS_move_mount, {AT_FDCWD, "/", AT_FDCWD, "/", 0}}}},
      {"fsopen", kNoCapabilities, {{SYS_fsopen, {"tmpfs", 0}}}},
      {"fspick", kNoCapabilities, {{SYS_fspick, {AT_FDCWD, "/", 0}}}},
      {"open_tree, a copy",
       kNoCapabilities,
       {{SYS_open_tree, {AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC}}}},
      {"mount_setattr",
       kNoCapabilities,
       {{SYS_mount_setattr, {AT_FDCWD, "/", 0, AddressOf(writable), sizeof(writable)}}}},
      {"swapon", kNoCapabilities, {{SYS_swapon, {around.other_disk, 0}}}},
      {"swapoff", kNoCapabilities, {{SYS_swapoff, {around.other_disk}}}},
      {"acct", kNoCapabilities, {{SYS_acct, {around.new_file}}}},
      {"quotactl",
       kEmptyRoot,
       {{SYS_quotactl, {QCMD(Q_QUOTAON, USRQUOTA), "/dev/sda", 0, around.new_file}}}},
      {"inotify_init1", kInside, {{SYS_inotify_init1, {0}}}},
      {"fanotify_init", kNoCapabilities, {{SYS_fanotify_init, {0x4, 0}}}},  // FAN_CLASS_CONTENT
      {"sync", kSeccompAlone, {{SYS_sync, {}}}},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
  if (!around.disk.empty()) AddDiskAttempts(around, attempts);
}

}  // namespace bulkhead::integration
