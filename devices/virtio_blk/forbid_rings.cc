#include "devices/virtio_blk/forbid_rings.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <iterator>

#include "base/errno_status.h"

namespace bulkhead::devices::virtio {

absl::Status ForbidNewRings() {
  // Numbers of x86-64: the sandbox's own filter kills for calls of other architectures.
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_register, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog filter = {.len = std::size(program), .filter = program};
  const int64_t result =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
  if (result == 0) return absl::OkStatus();
  // EACCES: no_new_privs is not set. EPERM, ENOSYS: the filter of a container, or no seccomp at
  // all.
  if (result < 0 && (errno == EACCES || errno == EPERM || errno == ENOSYS)) return absl::OkStatus();
  // The number of a thread that has other filters.
  return ErrnoToStatus(result > 0 ? EBUSY : errno, "seccomp, to forbid further io_uring rings");
}

}  // namespace bulkhead::devices::virtio
