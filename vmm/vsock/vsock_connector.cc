#include "vmm/vsock/vsock_connector.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/send_packet.h"
#include "base/status_macros.h"
#include "vmm/side_process/allow_list.h"

namespace bulkhead::vmm {
namespace {

struct Request {
  uint64_t token;
  uint32_t port;
  uint32_t reserved;
};

constexpr int kSocket = 0;  // the process's only descriptor

constexpr AllowedCall kAllowed[] = {{SYS_recvmsg},           {SYS_sendmsg}, {SYS_connect},
                                    {SYS_setsockopt},        {SYS_close},   {SYS_exit_group},
                                    {SYS_socket, 0, AF_UNIX}};

// From here on only what is safe in the child of a process with threads.

void DropRights() {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[2] = {};
  syscall(SYS_capget, &header, sets);
  constexpr uint32_t kFiles = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
  const __user_cap_data_struct kept[2] = {{.effective = sets[0].effective & kFiles,
                                           .permitted = sets[0].permitted & kFiles,
                                           .inheritable = 0},
                                          {}};
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (syscall(SYS_capset, &header, kept) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      !AllowOnly(kAllowed)) {
    _exit(1);
  }
}

// Connects without waiting. Returns the socket, or -1.
int Connect(const char* path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(address.sun_path)) return -1;
  memcpy(address.sun_path, path, strlen(path));
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  RefuseDescriptors(fd);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  close(fd);
  return -1;
}

// Sends the answer, and waits for room. False: the vmm is gone.
bool SendAnswer(uint64_t token, int fd) {
  if (SendPacket(kSocket, &token, sizeof(token), fd)) return true;
  // Too many descriptors are on their way: the connection is refused.
  return errno == ETOOMANYREFS && fd >= 0 && SendPacket(kSocket, &token, sizeof(token), -1);
}

[[noreturn]] void RunConnector(int socket, const std::string& socket_path, bool confined) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "vmm-vsock");
  prctl(PR_SET_DUMPABLE, 0);
  setsid();
  // No lock of a disk, and no end of another's socket, stays with this process.
  if (dup2(socket, kSocket) < 0 || syscall(SYS_close_range, kSocket + 1, ~0u, 0) != 0) _exit(1);
  if (confined) DropRights();
  for (;;) {
    Request request;
    iovec data = {.iov_base = &request, .iov_len = sizeof(request)};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    const ssize_t size = recvmsg(kSocket, &message, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size != sizeof(request)) _exit(0);
    char path[sizeof(sockaddr_un::sun_path) + 16];
    snprintf(path, sizeof(path), "%s_%u", socket_path.c_str(), request.port);
    const int fd = Connect(path);
    const bool sent = SendAnswer(request.token, fd);
    if (fd >= 0) close(fd);
    if (!sent) _exit(0);
  }
}

}  // namespace

absl::StatusOr<VsockConnector> VsockConnector::Start(const std::string& socket_path,
                                                     bool confined) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  const pid_t pid = fork();
  if (pid < 0) return ErrnoToStatus(errno, "starting the connector of vsock: fork");
  if (pid == 0) RunConnector(sockets.second.get(), socket_path, confined);
  return VsockConnector(std::move(sockets.first), pid);
}

VsockConnector::~VsockConnector() {
  if (pid_ == 0) return;
  // It ends by itself now, unless a file system does not answer: it is not waited for then.
  socket_.reset();
  for (int i = 0; i < 100 && waitpid(pid_, nullptr, WNOHANG) == 0; ++i) {
    usleep(1000);
  }
}

bool VsockConnector::Ask(uint64_t token, uint32_t port) const {
  const Request request = {.token = token, .port = port, .reserved = 0};
  return SendSocketMessage(fd(), {reinterpret_cast<const char*>(&request), sizeof(request)}, {})
      .ok();
}

absl::StatusOr<std::optional<VsockConnector::Answer>> VsockConnector::Receive() const {
  absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(fd(), sizeof(uint64_t), absl::ZeroDuration());
  if (absl::IsDeadlineExceeded(message.status())) return std::optional<Answer>();
  RETURN_IF_ERROR(message.status());
  std::optional<Answer> answer(std::in_place);
  if (message->bytes.size() == sizeof(answer->token)) {
    memcpy(&answer->token, message->bytes.data(), sizeof(answer->token));
  }
  if (!message->descriptors.empty()) answer->socket = std::move(message->descriptors[0]);
  return answer;
}

}  // namespace bulkhead::vmm
