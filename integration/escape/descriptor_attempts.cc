// The descriptors that the process has: what they could do beyond their purpose.
#include <asm/ioctls.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <iterator>
#include <vector>

#include "integration/escape/attempts.h"

namespace bulkhead::integration {
namespace {

constexpr int kSoPeerPidFd = 77;  // SO_PEERPIDFD, which Debian 12's headers lack
// Of linux/kvm.h, linux/if_tun.h, linux/loop.h and linux/nsfs.h.
constexpr uint32_t kKvmCreateVm = 0xae01;
constexpr uint32_t kKvmRun = 0xae80;
constexpr uint32_t kTunSetIff = 0x400454ca;
constexpr uint32_t kTunSetPersist = 0x400454cb;
constexpr uint32_t kTunSetHeaderSize = 0x400454d8;
constexpr uint32_t kTunSetSteering = 0x800454e0;
constexpr uint32_t kLoopSetFd = 0x4c00;
constexpr uint32_t kNsGetUserNs = 0xb701;

// A message of one byte with one control message.
Argument Message(int type, const void* data, size_t size) {
  struct {
    uint64_t size;  // as in cmsghdr
    int level, type;
    char data[16] = {};
  } control = {.size = CMSG_LEN(size), .level = SOL_SOCKET, .type = type};
  memcpy(control.data, data, size);
  const iovec byte = {.iov_base = nullptr, .iov_len = 1};
  msghdr message = {};
  message.msg_iovlen = 1;
  message.msg_controllen = CMSG_SPACE(size);
  return AddressOf(
      message, {{offsetof(msghdr, msg_iov), AddressOf(byte, {{offsetof(iovec, iov_base), "x"}})},
                {offsetof(msghdr, msg_control), AddressOf(control)}});
}

void AddSharedMemory(const Surroundings& around, std::vector<Attempt>& attempts) {
  const std::vector<int>& memory = around.memory;
  const std::vector<int>& requests = around.requests;
  const int read_write = PROT_READ | PROT_WRITE;
  const iovec one = {.iov_base = nullptr, .iov_len = 1};
  const Argument byte = AddressOf(one, {{offsetof(iovec, iov_base), "x"}});
  const iovec there = {.iov_base = reinterpret_cast<void*>(around.requests_address), .iov_len = 1};
  const uint64_t huge = uint64_t{1} << 40;
  const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const Attempt rows[] = {
      {"F_ADD_SEALS to shared memory",
       kSeals,
       {{SYS_fcntl, {Each(), F_ADD_SEALS, F_SEAL_WRITE}}},
       memory},
      {"shrink shared memory", kSeals, {{SYS_ftruncate, {Each(), 0}}}, memory},
      {"grow shared memory", kSeals, {{SYS_ftruncate, {Each(), huge}}}, memory},
      {"fallocate, to grow shared memory", kSeals, {{SYS_fallocate, {Each(), 0, 0, huge}}}, memory},
      {"punch a hole into the requests",
       kSeals,
       {{SYS_fallocate, {Each(), punch, 0, 4096}}},
       requests},
      {"map the requests, to write",
       kSeals,
       {{SYS_mmap, {0, 4096, read_write, MAP_SHARED, Each(), 0}}},
       requests},
      {"mprotect the requests, to write",
       kSeals,
       {{SYS_mprotect, {around.requests_address, 4096, read_write}}}},
      {"MADV_REMOVE of the requests",
       kSeals,
       {{SYS_madvise, {around.requests_address, 4096, MADV_REMOVE}}}},
      {"write to the requests", kSeals, {{SYS_write, {Each(), "x", 1}}}, requests},
      {"pwrite to the requests", kSeals, {{SYS_pwrite64, {Each(), "x", 1, 0}}}, requests},
      {"pwritev2 to the requests", kSeals, {{SYS_pwritev2, {Each(), byte, 1, 0, 0, 0}}}, requests},
      {"process_vm_writev to the requests",
       kSeals,
       {{SYS_process_vm_writev, {1, byte, 1, AddressOf(there), 1, 0}}}},
      {"map shared memory, to execute",
       kInside,
       {{SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, Each(), 0}}},
       memory},
      {"fchmod of shared memory", kOtherUser, {{SYS_fchmod, {Each(), 0}}}, memory},
      {"fchown of shared memory", kOtherUser, {{SYS_fchown, {Each(), 1, 1}}}, memory},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

// What stays set for the vmm and for successors, or beyond the VM. The values change nothing.
void AddTaps(const Surroundings& around, std::vector<Attempt>& attempts) {
  const int header_bytes = 12;
  const int none = -1;
  const Attempt rows[] = {
      {"TUNSETPERSIST", kSeccompAlone, {{SYS_ioctl, {Each(), kTunSetPersist, 0}}}, around.taps},
      {"TUNSETVNETHDRSZ",
       kSeccompAlone,
       {{SYS_ioctl, {Each(), kTunSetHeaderSize, AddressOf(header_bytes)}}},
       around.taps},
      {"TUNSETSTEERINGEBPF, none",
       kSeccompAlone,
       {{SYS_ioctl, {Each(), kTunSetSteering, AddressOf(none)}}},
       around.taps},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

// By SO_PEERPIDFD the process gets a pidfd of the vmm, with the number `next_descriptor`.
void AddPeerPidFd(const Surroundings& around, std::vector<Attempt>& attempts) {
  const socklen_t size = sizeof(int);
  const SystemCall get = {SYS_getsockopt, {3, SOL_SOCKET, kSoPeerPidFd, Zeros(4), AddressOf(size)}};
  const int vmm = around.next_descriptor;
  const iovec one = {.iov_base = reinterpret_cast<void*>(around.stack_address), .iov_len = 4096};
  const Attempt rows[] = {
      {"SO_PEERPIDFD, pidfd_send_signal",
       kPidNamespace,
       {get, {SYS_pidfd_send_signal, {vmm, 0, 0, 0}}}},
      {"SO_PEERPIDFD, pidfd_getfd", kOtherUser, {get, {SYS_pidfd_getfd, {vmm, 0, 0}}}},
      {"SO_PEERPIDFD, setns", kOtherUser, {get, {SYS_setns, {vmm, CLONE_NEWNS}}}},
      {"SO_PEERPIDFD, setns of the user", kOtherUser, {get, {SYS_setns, {vmm, CLONE_NEWUSER}}}},
      {"SO_PEERPIDFD, process_madvise",
       kOtherUser,
       {get, {SYS_process_madvise, {vmm, AddressOf(one), 1, MADV_COLD, 0}}}},
      {"SO_PEERPIDFD, process_mrelease", kNotPossible, {get, {SYS_process_mrelease, {vmm, 0}}}},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

}  // namespace

void AddDescriptorAttempts(const Surroundings& around, std::vector<Attempt>& attempts) {
  const std::vector<int>& all = around.descriptors;
  const struct {
    int type = 1;  // F_OWNER_PID
    int pid = 0;
  } vmm_owns = {1, around.vmm};
  const int zero = 0;
  const int one = 1;
  const int null_descriptor = 0;
  const struct {
    int pid, uid, gid;
  } forged = {around.vmm, 0, 0};
  const uint32_t flags = FS_NOATIME_FL;
  const Attempt rows[] = {
      {"F_SETOWN of the vmm", kPidNamespace, {{SYS_fcntl, {Each(), F_SETOWN, around.vmm}}}, all},
      {"F_SETOWN_EX of the vmm",
       kPidNamespace,
       {{SYS_fcntl, {Each(), F_SETOWN_EX, AddressOf(vmm_owns)}}},
       all},
      {"SIOCSPGRP of the vmm",
       kPidNamespace,
       {{SYS_ioctl, {Each(), SIOCSPGRP, AddressOf(around.vmm)}}},
       all},
      {"FIOSETOWN of the vmm",
       kPidNamespace,
       {{SYS_ioctl, {Each(), FIOSETOWN, AddressOf(around.vmm)}}},
       all},
      {"F_SETSIG", kSeccompAlone, {{SYS_fcntl, {Each(), F_SETSIG, SIGKILL}}}, all},
      {"F_SETFL, to make events block",
       kSeccompAlone,
       {{SYS_fcntl, {Each(), F_SETFL, 0}}},
       around.events},
      {"F_SETFL of the input pipes",
       kSeccompAlone,
       {{SYS_fcntl, {Each(), F_SETFL, O_ASYNC | O_NONBLOCK}}},
       around.inputs},
      {"F_SETFL of the log, O_ASYNC", kSeccompAlone, {{SYS_fcntl, {2, F_SETFL, O_ASYNC}}}},
      {"FIONBIO of events",
       kSeccompAlone,
       {{SYS_ioctl, {Each(), FIONBIO, AddressOf(zero)}}},
       around.events},
      {"FIOASYNC of the input pipes",
       kSeccompAlone,
       {{SYS_ioctl, {Each(), FIOASYNC, AddressOf(one)}}},
       around.inputs},
      {"F_SETPIPE_SZ of the input pipes",
       kSeccompAlone,
       {{SYS_fcntl, {Each(), F_SETPIPE_SZ, 4096}}},
       around.inputs},
      {"write to the input pipes", kOpenMode, {{SYS_write, {Each(), "x", 1}}}, around.inputs},
      {"read from the log", kOpenMode, {{SYS_read, {Each(), Zeros(16), 16}}}, around.outputs},
      {"vmsplice to the log",
       kSeccompAlone,
       {{SYS_vmsplice, {Each(), Zeros(16), 0, 0}}},
       around.outputs},
      {"splice of shared memory to the log",
       kSeccompAlone,
       {{SYS_splice, {Each(), 0, 2, 0, 16, 0}}},
       around.memory},
      {"tee of the input pipes to the log",
       kSeccompAlone,
       {{SYS_tee, {Each(), 2, 16, 2}}},
       around.inputs},
      {"a descriptor with number 4096",
       kLimits,
       {{SYS_fcntl, {Each(), F_DUPFD_CLOEXEC, 4096}}},
       all},
      {"dup3 to number 4096", kLimits, {{SYS_dup3, {Each(), 4096, 0}}}, all},
      {"setns with each descriptor", kNotPossible, {{SYS_setns, {Each(), 0}}}, all},
      {"pidfd_getfd of each descriptor", kNotPossible, {{SYS_pidfd_getfd, {Each(), 0, 0}}}, all},
      {"TIOCSTI", kNotPossible, {{SYS_ioctl, {Each(), TIOCSTI, "x"}}}, all},
      {"TIOCSCTTY", kNotPossible, {{SYS_ioctl, {Each(), TIOCSCTTY, 0}}}, all},
      {"KVM_CREATE_VM", kNotPossible, {{SYS_ioctl, {Each(), kKvmCreateVm, 0}}}, all},
      {"KVM_RUN", kNotPossible, {{SYS_ioctl, {Each(), kKvmRun, 0}}}, all},
      {"TUNSETIFF", kNotPossible, {{SYS_ioctl, {Each(), kTunSetIff, Zeros(64)}}}, all},
      {"LOOP_SET_FD", kNotPossible, {{SYS_ioctl, {Each(), kLoopSetFd, 0}}}, all},
      {"NS_GET_USERNS", kNotPossible, {{SYS_ioctl, {Each(), kNsGetUserNs, 0}}}, all},
      {"FS_IOC_SETFLAGS",
       kOtherUser,
       {{SYS_ioctl, {Each(), FS_IOC_SETFLAGS, AddressOf(flags)}}},
       all},
      {"SO_RCVBUFFORCE",
       kNoCapabilities,
       {{SYS_setsockopt, {Each(), SOL_SOCKET, SO_RCVBUFFORCE, AddressOf(one), 4}}},
       around.sockets},
      {"sendmsg with forged credentials",
       kNoCapabilities,
       {{SYS_sendmsg, {Each(), Message(SCM_CREDENTIALS, &forged, sizeof(forged)), 0}}},
       around.sockets},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
  if (around.refuses_descriptors) {
    attempts.push_back(
        {"sendmsg with a descriptor",
         kSocketOption,
         {{SYS_sendmsg, {Each(), Message(SCM_RIGHTS, &null_descriptor, sizeof(int)), 0}}},
         around.sockets});
  }
  AddSharedMemory(around, attempts);
  AddTaps(around, attempts);
  AddPeerPidFd(around, attempts);
}

}  // namespace bulkhead::integration
