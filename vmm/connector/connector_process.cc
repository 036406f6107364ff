#include "vmm/connector/connector_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/message_socket.h"
#include "base/receive_packet.h"
#include "base/send_packet.h"
#include "proto/back_end_socket.h"

namespace bulkhead::vmm {
namespace {

constexpr int64_t kFirstPauseMs = 10;
constexpr int64_t kLongestPauseMs = 1000;
// A connection that was asked for again sooner did not last.
constexpr int64_t kLastsMs = 10'000;

// SO_PEERPIDFD (Linux 6.5), which older headers lack.
constexpr int kPeerPidFd = 77;

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000} + now.tv_nsec / 1'000'000;
}

struct Client {
  int socket = -1;
  sockaddr_un address = {};
  bool is_shared = false;  // by one listening process after the other
  bool asks = false;
  int64_t next_try_ms = 0;
  int64_t pause_ms = kFirstPauseMs;  // after a try that fails
  int64_t connected_ms = -kLastsMs;  // when the last connection was made
  int64_t connection_pause_ms = kFirstPauseMs;
};

void Drop(Client& client) {
  if (client.socket >= 0) close(client.socket);
  client.socket = -1;
  client.asks = false;
}

// False: its socket is full, or closed.
bool Send(const Client& client, const ConnectAnswer& answer, int connection) {
  return SendPacket(client.socket, &answer, sizeof(answer), connection, MSG_DONTWAIT);
}

void Identify(int connection, ConnectAnswer& answer) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return;
  answer.peer_pid = static_cast<uint64_t>(credentials.pid);
  int pid_fd = -1;
  size = sizeof(pid_fd);
  if (getsockopt(connection, SOL_SOCKET, kPeerPidFd, &pid_fd, &size) != 0) return;
  struct stat info = {};
  if (fstat(pid_fd, &info) == 0) answer.peer_inode = info.st_ino;
  close(pid_fd);
}

void Try(Client& client) {
  ConnectAnswer answer = {};
  // Non-blocking: where the listener has too many connections that wait, this is a failed try.
  const int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connection < 0 || connect(connection, reinterpret_cast<const sockaddr*>(&client.address),
                                sizeof(client.address)) != 0) {
    answer.error = errno;
    Send(client, answer, -1);
    client.next_try_ms = NowMs() + client.pause_ms;
    client.pause_ms = std::min(2 * client.pause_ms, kLongestPauseMs);
  } else {
    // Back ends have none to send, and a device must not be made to close them.
    RefuseDescriptors(connection);
    if (!client.is_shared) Identify(connection, answer);
    if (Send(client, answer, connection)) {
      client.asks = false;
    } else {
      // Full of earlier answers, or of a dead process, whose successor brings its own socket.
      client.next_try_ms = NowMs() + kLongestPauseMs;
    }
    client.pause_ms = kFirstPauseMs;
    client.connected_ms = NowMs();
  }
  if (connection >= 0) close(connection);
}

void OnRequest(Client& client) {
  char request = 0;
  const ssize_t size = recv(client.socket, &request, sizeof(request), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size != 1 || request != kConnectRequest) return Drop(client);
  if (client.asks) return;
  client.asks = true;
  const bool lasted = NowMs() - client.connected_ms >= kLastsMs;
  client.connection_pause_ms =
      lasted ? kFirstPauseMs : std::min(2 * client.connection_pause_ms, kLongestPauseMs);
  client.next_try_ms = lasted ? 0 : client.connected_ms + client.connection_pause_ms;
}

// False: the vmm is gone.
bool TakeClient(int control, std::vector<Client>& clients) {
  uint32_t index = 0;
  int socket = -1;
  const ssize_t size = ReceivePacket(control, &index, sizeof(index), &socket);
  if (size < 0) return errno == EAGAIN;
  if (size != sizeof(index) || index >= clients.size() || socket < 0) return false;
  Drop(clients[index]);
  clients[index].socket = socket;
  return true;
}

// From now on this process can connect to unix sockets, and do little else.
bool Confine() {
  constexpr uint32_t kAllowed[] = {
      SYS_poll,         SYS_recvmsg,    SYS_recvfrom, SYS_sendmsg,        SYS_connect,
      SYS_close,        SYS_getsockopt, SYS_fstat,    SYS_newfstatat,     SYS_clock_gettime,
      SYS_rt_sigreturn, SYS_exit_group, SYS_brk,      SYS_restart_syscall};
  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const uint32_t number : kAllowed) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  const auto with_argument = [&filter](uint32_t number, uint32_t argument, uint32_t value) {
    filter.insert(filter.end(),
                  {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
                   BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                            static_cast<uint32_t>(offsetof(seccomp_data, args) + 8 * argument)),
                   BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
                   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))});
  };
  with_argument(SYS_socket, 0, AF_UNIX);
  with_argument(SYS_setsockopt, 1, SOL_SOCKET);
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  const sock_fprog program = {.len = static_cast<unsigned short>(filter.size()),  // NOLINT
                              .filter = filter.data()};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

// Moves the anchors to descriptors 1, 2, ..., and closes all others but 0.
bool KeepAnchors(const std::vector<SocketPlace>& places, std::vector<Client>& clients) {
  std::vector<int> anchors;
  for (const SocketPlace& place : places) {
    const int first = static_cast<int>(places.size()) + 1;
    anchors.push_back(place.anchor < 0 ? -1 : fcntl(place.anchor, F_DUPFD_CLOEXEC, first));
    if (place.anchor >= 0 && anchors.back() < 0) return false;
  }
  unsigned next = 1;
  for (size_t i = 0; i < places.size(); ++i) {
    clients[i].address.sun_family = AF_UNIX;
    std::string path = places[i].path;
    if (anchors[i] >= 0) {
      if (dup2(anchors[i], static_cast<int>(next)) < 0) return false;
      path = absl::StrCat("/proc/self/fd/", next++);
      clients[i].is_shared = true;
    }
    path.copy(clients[i].address.sun_path, sizeof(clients[i].address.sun_path) - 1);
  }
  return close_range(next, ~0u, 0) == 0;
}

}  // namespace

void RunConnector(int control, const std::vector<SocketPlace>& places, bool confined) {
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  prctl(PR_SET_NAME, "vmm-connector");
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  setsid();  // the terminal's signals are for the vmm
  std::vector<Client> clients(places.size());
  std::vector<pollfd> ready(places.size() + 1);
  if (dup2(control, 0) != 0 || !KeepAnchors(places, clients)) _exit(1);
  if (confined && !Confine()) _exit(1);
  while (true) {
    int64_t wait_ms = -1;
    for (Client& client : clients) {
      if (!client.asks) continue;
      if (client.next_try_ms <= NowMs()) Try(client);
      if (!client.asks) continue;
      const int64_t left = std::max<int64_t>(client.next_try_ms - NowMs(), 1);
      wait_ms = wait_ms < 0 ? left : std::min(wait_ms, left);
    }
    ready[0] = {.fd = 0, .events = POLLIN, .revents = 0};
    for (size_t i = 0; i < clients.size(); ++i) {
      ready[i + 1] = {.fd = clients[i].socket, .events = POLLIN, .revents = 0};
    }
    if (poll(ready.data(), ready.size(), static_cast<int>(wait_ms)) < 0) continue;
    if (ready[0].revents != 0 && !TakeClient(0, clients)) _exit(0);
    for (size_t i = 0; i < clients.size(); ++i) {
      if (ready[i + 1].revents != 0 && clients[i].socket == ready[i + 1].fd) OnRequest(clients[i]);
    }
  }
}

}  // namespace bulkhead::vmm
