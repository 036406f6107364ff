#include "vmm/connector/connector_process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/message_socket.h"
#include "base/receive_packet.h"
#include "base/send_packet.h"
#include "proto/back_end_peer.h"
#include "proto/back_end_socket.h"
#include "vmm/side_process/allow_list.h"
#include "vmm/side_process/side_log.h"

namespace bulkhead::vmm {
namespace {

constexpr int64_t kFirstPauseMs = 10;
constexpr int64_t kLongestPauseMs = 1000;
// A connection that was asked for again sooner did not last.
constexpr int64_t kLastsMs = 10'000;

// SO_PEERPIDFD (Linux 6.5) and PID_FS_MAGIC (6.9), which older headers lack.
constexpr int kPeerPidFd = 77;
constexpr int64_t kPidFileSystem = 0x50494446;

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
  if (client.socket >= 0) {
    shutdown(client.socket, SHUT_RDWR);  // the keeper has it, too
    close(client.socket);
  }
  client.socket = -1;
  client.asks = false;
}

// False: its socket is full, or closed.
template <typename T>
bool Send(const Client& client, const T& answer, int descriptor) {
  return SendPacket(client.socket, &answer, sizeof(answer), descriptor, MSG_DONTWAIT);
}

// A number that no other process with its pid has; 0: this kernel has none.
uint64_t NumberOf(int pid_fd) {
  struct statfs file_system = {};
  struct stat info = {};
  const bool has_number =
      fstatfs(pid_fd, &file_system) == 0 && file_system.f_type == kPidFileSystem;
  return has_number && fstat(pid_fd, &info) == 0 ? info.st_ino : 0;
}

// Says in `answer` who listens at the other end. Returns a pidfd of it, or -1: the kernel does not
// tell, or it is dead, and has left its socket to another process.
int Identify(int connection, ConnectAnswer& answer) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return -1;
  answer.peer_pid = static_cast<uint64_t>(credentials.pid);
  int pid_fd = -1;
  size = sizeof(pid_fd);
  if (getsockopt(connection, SOL_SOCKET, kPeerPidFd, &pid_fd, &size) != 0) return -1;
  answer.peer_inode = NumberOf(pid_fd);
  pollfd dead = {.fd = pid_fd, .events = POLLIN, .revents = 0};
  if (answer.peer_inode != 0 && poll(&dead, 1, 0) == 0) return pid_fd;
  close(pid_fd);
  return -1;
}

void AnswerPeerRequest(const Client& client, const PeerRequest& request) {
  PeerAnswer answer = {.kind = PeerAnswerKind::kPeer,
                       .error = 0,
                       .peer_pid = request.peer_pid,
                       .peer_inode = request.peer_inode,
                       .reserved = 0};
  int pid_fd = static_cast<int>(syscall(
      SYS_pidfd_open, static_cast<pid_t>(std::min<uint64_t>(request.peer_pid, INT_MAX)), 0));
  if (pid_fd < 0) {
    answer.error = errno;
  } else if (request.peer_inode == 0 || NumberOf(pid_fd) != request.peer_inode) {
    answer.error = ESRCH;  // another one has that pid now
    close(pid_fd);
    pid_fd = -1;
  }
  Send(client, answer, pid_fd);
  if (pid_fd >= 0) close(pid_fd);
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
    const int listener = client.is_shared ? -1 : Identify(connection, answer);
    if (listener >= 0) {
      const PeerAnswer who = {.kind = PeerAnswerKind::kListener,
                              .error = 0,
                              .peer_pid = answer.peer_pid,
                              .peer_inode = answer.peer_inode,
                              .reserved = 0};
      Send(client, who, listener);
      close(listener);
    }
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
  PeerRequest request = {};
  const ssize_t size = recv(client.socket, &request, sizeof(request), MSG_DONTWAIT | MSG_TRUNC);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size == sizeof(request) && request.kind == kPeerRequest) {
    return AnswerPeerRequest(client, request);
  }
  if (size != 1 || request.kind != static_cast<uint64_t>(kConnectRequest)) return Drop(client);
  if (client.asks) return;
  client.asks = true;
  const bool lasted = NowMs() - client.connected_ms >= kLastsMs;
  client.connection_pause_ms =
      lasted ? kFirstPauseMs : std::min(2 * client.connection_pause_ms, kLongestPauseMs);
  client.next_try_ms = lasted ? 0 : client.connected_ms + client.connection_pause_ms;
}

// False: the keeper is gone.
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

// It can connect to unix sockets, and do little else.
constexpr AllowedCall kAllowed[] = {{SYS_poll},
                                    {SYS_recvmsg},
                                    {SYS_recvfrom},
                                    {SYS_sendmsg},
                                    {SYS_connect},
                                    {SYS_close},
                                    {SYS_shutdown},
                                    {SYS_getsockopt},
                                    {SYS_fstat},
                                    {SYS_newfstatat},
                                    {SYS_fstatfs},
                                    {SYS_pidfd_open},
                                    {SYS_clock_gettime},
                                    {SYS_rt_sigreturn},
                                    {SYS_exit_group},
                                    {SYS_brk},
                                    {SYS_restart_syscall},
                                    {SYS_socket, 0, AF_UNIX},
                                    {SYS_setsockopt, 1, SOL_SOCKET}};

// Moves `fds` to descriptors 1, 2, ..., and closes all others but 0. -1 stays -1.
bool KeepOnly(std::vector<int>& fds) {
  const int beyond = static_cast<int>(fds.size()) + 1;
  for (int& fd : fds) {
    if (fd < 0) continue;
    fd = fcntl(fd, F_DUPFD_CLOEXEC, beyond);
    if (fd < 0) return false;
  }
  int next = 1;
  for (int& fd : fds) {
    if (fd < 0) continue;
    if (dup2(fd, next) < 0) return false;
    fd = next++;
  }
  return close_range(static_cast<unsigned>(next), ~0u, 0) == 0;
}

// Makes a client for each place, with the socket that an earlier process had.
bool MakeClients(const SideProcessStart& start, const std::vector<SocketPlace>& places,
                 std::vector<Client>& clients) {
  std::vector<int> fds;
  for (const SocketPlace& place : places) {
    fds.push_back(place.anchor != nullptr ? place.anchor->get() : -1);
  }
  fds.insert(fds.end(), start.earlier_clients.begin(), start.earlier_clients.end());
  fds.resize(2 * places.size(), -1);
  if (dup2(start.clients, 0) != 0 || !KeepOnly(fds)) return false;
  for (size_t i = 0; i < places.size(); ++i) {
    Client& client = clients[i];
    client.is_shared = fds[i] >= 0;
    client.socket = fds[places.size() + i];
    client.address.sun_family = AF_UNIX;
    const std::string path =
        client.is_shared ? absl::StrCat("/proc/self/fd/", fds[i]) : places[i].path;
    path.copy(client.address.sun_path, sizeof(client.address.sun_path) - 1);
  }
  return true;
}

// What a client has asked for is forgotten; it asks again.
void Renew(Client& client) {
  PeerRequest request;
  while (recv(client.socket, &request, sizeof(request), MSG_DONTWAIT) > 0) {
  }
  PeerAnswer answer = {};
  answer.kind = PeerAnswerKind::kAskAgain;
  Send(client, answer, -1);
}

}  // namespace

void RunConnector(const SideProcessStart& start, const std::vector<SocketPlace>& places,
                  bool confined) {
  prctl(PR_SET_NAME, "vmm-connector");
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  std::vector<Client> clients(places.size());
  std::vector<pollfd> ready(places.size() + 1);
  if (!MakeClients(start, places, clients)) _exit(1);
  if (confined && !AllowOnly(kAllowed)) _exit(1);
  for (Client& client : clients) {
    if (client.socket >= 0) Renew(client);
  }
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
    if (ready[0].revents != 0 && !TakeClient(0, clients)) _exit(1);
    for (size_t i = 0; i < clients.size(); ++i) {
      if (ready[i + 1].revents != 0 && clients[i].socket == ready[i + 1].fd) OnRequest(clients[i]);
    }
  }
}

}  // namespace bulkhead::vmm
