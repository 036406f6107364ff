// Sockets, System V IPC, memory, and what else the kernel has to offer.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/un.h>
#include <time.h>

#include <iterator>
#include <string>
#include <vector>

#include "integration/escape/attempts.h"

namespace bulkhead::integration {
namespace {

constexpr uint32_t kX32Bit = 0x40000000;  // of the system calls of x32 programs

sockaddr_un UnixAddress(const std::string& name) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  memcpy(address.sun_path, name.data(), std::min(name.size(), sizeof(address.sun_path) - 1));
  return address;
}

}  // namespace

void AddNetworkAttempts(const Surroundings& around, std::vector<Attempt>& attempts) {
  sockaddr_in host = {};
  host.sin_family = AF_INET;
  host.sin_port = htons(around.tcp_port);
  host.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sockaddr_in any = {};
  any.sin_family = AF_INET;
  const sockaddr_un control = UnixAddress(around.control_socket);
  const std::string abstract_name = std::string(1, '\0') + around.abstract_socket;
  const sockaddr_un abstract = UnixAddress(abstract_name);
  const size_t abstract_size = offsetof(sockaddr_un, sun_path) + abstract_name.size();
  const sockaddr_un path = UnixAddress("/x");
  ifreq lo = {};
  strcpy(lo.ifr_name, "lo");
  lo.ifr_flags = IFF_UP;
  const SystemCall tcp = {SYS_socket, {AF_INET, SOCK_STREAM, 0}};
  const SystemCall udp = {SYS_socket, {AF_INET, SOCK_DGRAM, 0}};
  const SystemCall local = {SYS_socket, {AF_UNIX, SOCK_STREAM, 0}};
  const Argument made = ResultOf(0);
  const Attempt rows[] = {
      {"socket AF_INET", kInside, {tcp}},
      {"socket AF_INET6", kInside, {{SYS_socket, {AF_INET6, SOCK_STREAM, 0}}}},
      {"socket AF_UNIX", kInside, {local}},
      {"socketpair", kInside, {{SYS_socketpair, {AF_UNIX, SOCK_STREAM, 0, Zeros(8)}}}},
      {"socket AF_NETLINK", kInside, {{SYS_socket, {AF_NETLINK, SOCK_RAW, 0}}}},
      // No namespace has vsock sockets (before Linux 7.0).
      {"socket AF_VSOCK", kSeccompAlone, {{SYS_socket, {AF_VSOCK, SOCK_STREAM, 0}}}},
      {"socket AF_ALG", kInside, {{SYS_socket, {AF_ALG, SOCK_SEQPACKET, 0}}}},
      {"socket AF_PACKET", kNoCapabilities, {{SYS_socket, {AF_PACKET, SOCK_RAW, 0}}}},
      {"raw socket", kNoCapabilities, {{SYS_socket, {AF_INET, SOCK_RAW, IPPROTO_ICMP}}}},
      {"connect to a TCP port of the host",
       kNoSockets,
       {tcp, {SYS_connect, {made, AddressOf(host), sizeof(host)}}}},
      {"send to a UDP port of the host",
       kNetNamespace,
       {udp, {SYS_sendto, {made, "x", 1, 0, AddressOf(host), sizeof(host)}}}},
      {"connect to the control socket",
       kEmptyRoot,
       {local, {SYS_connect, {made, AddressOf(control), sizeof(control)}}}},
      {"connect to an abstract socket",
       kNoSockets,
       {local, {SYS_connect, {made, AddressOf(abstract), abstract_size}}}},
      {"bind a path", kEmptyRoot, {local, {SYS_bind, {made, AddressOf(path), sizeof(path)}}}},
      {"bind and listen on a TCP port",
       kInside,
       {tcp, {SYS_bind, {made, AddressOf(any), sizeof(any)}}, {SYS_listen, {made, 1}}}},
      {"set up the loopback interface",
       kNoCapabilities,
       {udp, {SYS_ioctl, {made, SIOCSIFFLAGS, AddressOf(lo)}}}},
      {"shmget of the host's memory", kIpcNamespace, {{SYS_shmget, {around.ipc_key, 0, 0}}}},
      {"shmget", kInside, {{SYS_shmget, {IPC_PRIVATE, 4096, IPC_CREAT | 0600}}}},
      {"msgget", kInside, {{SYS_msgget, {IPC_PRIVATE, IPC_CREAT | 0600}}}},
      {"semget", kInside, {{SYS_semget, {IPC_PRIVATE, 1, IPC_CREAT | 0600}}}},
      {"mq_open", kLimits, {{SYS_mq_open, {"x", O_CREAT | O_RDWR, 0600, 0}}}},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

void AddKernelAttempts(const Surroundings& around, std::vector<Attempt>& attempts) {
  const int all_access = PROT_READ | PROT_WRITE | PROT_EXEC;
  const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
  const io_uring_params ring = {};
  const uint32_t map[18] = {2, 4, 4, 1};  // an array of one
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  const timeval now_us = {.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
  timex adjust = {};
  adjust.modes = ADJ_SETOFFSET;
  const uint32_t descriptor[4] = {};
  const Attempt rows[] = {
      {"map memory, to write and execute",
       kInside,
       {{SYS_mmap, {0, 4096, all_access, anonymous, -1, 0}}}},
      {"map memory, to execute",
       kInside,
       {{SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC, anonymous, -1, 0}}}},
      {"mprotect of the stack, to execute",
       kInside,
       {{SYS_mprotect, {around.stack_address, 4096, all_access}}}},
      {"mprotect of the code, to write",
       kInside,
       {{SYS_mprotect, {around.code_address, 4096, all_access}}}},
      {"pkey_mprotect, to execute",
       kInside,
       {{SYS_pkey_mprotect, {around.stack_address, 4096, all_access, -1}}}},
      {"memfd_create", kInside, {{SYS_memfd_create, {"x", 0}}}},
      {"memfd_secret", kInside, {{SYS_memfd_secret, {0}}}},
      {"userfaultfd", kNoCapabilities, {{SYS_userfaultfd, {0}}}},
      {"userfaultfd of user mode", kInside, {{SYS_userfaultfd, {1}}}},
      {"mbind", kInside, {{SYS_mbind, {around.stack_address, 4096, 0, 0, 0, 0}}}},
      {"io_uring_setup", kInside, {{SYS_io_uring_setup, {8, AddressOf(ring)}}}},
      {"io_uring_register",
       kNotPossible,
       {{SYS_io_uring_register, {Each(), IORING_REGISTER_PROBE, Zeros(16), 0}}},
       around.descriptors},
      {"bpf, a map", kSeccompAlone, {{SYS_bpf, {0, AddressOf(map), sizeof(map)}}}},
      {"perf_event_open of all",
       kNoCapabilities,
       {{SYS_perf_event_open, {Zeros(128), -1, 0, -1, 0}}}},
      {"perf_event_open of itself", kInside, {{SYS_perf_event_open, {Zeros(128), 0, -1, -1, 0}}}},
      {"keyctl of the vmm's key",
       kKeyring,
       {{SYS_keyctl, {KEYCTL_READ, around.key, Zeros(16), 16}}}},
      {"request_key of the vmm's key", kKeyring, {{SYS_request_key, {"user", kKeyName, 0, 0}}}},
      {"add_key", kInside, {{SYS_add_key, {"user", "x", "x", 1, KEY_SPEC_PROCESS_KEYRING}}}},
      {"init_module", kNoCapabilities, {{SYS_init_module, {Zeros(64), 64, ""}}}},
      {"finit_module", kNoCapabilities, {{SYS_finit_module, {Each(), "", 0}}}, around.memory},
      {"delete_module", kNoCapabilities, {{SYS_delete_module, {"x", O_NONBLOCK}}}},
      {"kexec_load", kNoCapabilities, {{SYS_kexec_load, {0, 0, 0, 0}}}},
      {"iopl", kNoCapabilities, {{SYS_iopl, {3}}}},
      {"ioperm", kNoCapabilities, {{SYS_ioperm, {0x80, 1, 1}}}},
      {"modify_ldt", kInside, {{SYS_modify_ldt, {1, AddressOf(descriptor), 16}}}},
      {"sethostname", kNoCapabilities, {{SYS_sethostname, {"x", 1}}}},
      {"setdomainname", kNoCapabilities, {{SYS_setdomainname, {"x", 1}}}},
      {"settimeofday", kNoCapabilities, {{SYS_settimeofday, {AddressOf(now_us), 0}}}},
      {"clock_settime", kNoCapabilities, {{SYS_clock_settime, {CLOCK_REALTIME, AddressOf(now)}}}},
      {"adjtimex", kNoCapabilities, {{SYS_adjtimex, {AddressOf(adjust)}}}},
      // No such command: the kernel looks at the rights first.
      {"reboot",
       kNoCapabilities,
       {{SYS_reboot, {0xfee1dead, 0x28121969, 0x12345678, 0}}},
       {-1},
       EINVAL},
      {"syslog, to read", kSeccompAlone, {{SYS_syslog, {3, Zeros(256), 256}}}},
      {"syslog, to clear", kNoCapabilities, {{SYS_syslog, {5, 0, 0}}}},
      {"vhangup", kNoCapabilities, {{SYS_vhangup, {}}}},
      {"landlock_create_ruleset", kInside, {{SYS_landlock_create_ruleset, {0, 0, 1}}}},
      {"a number without system call", kNotPossible, {{500, {}}}},
      {"getpid of x32", kInside, {{static_cast<int>(kX32Bit | SYS_getpid), {}}}},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

std::vector<Attempt> Attempts(const Surroundings& around) {
  std::vector<Attempt> attempts;
  AddFileAttempts(around, attempts);
  AddDescriptorAttempts(around, attempts);
  AddProcessAttempts(around, attempts);
  AddNetworkAttempts(around, attempts);
  AddKernelAttempts(around, attempts);
  return attempts;
}

}  // namespace bulkhead::integration
