#include "vmm/sandbox/filtered_child.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "vmm/sandbox/seccomp_policy.h"
#include "vmm/sandbox/seccomp_violation.h"

namespace bulkhead::vmm {
namespace {

constexpr int kNoFilter = 254;

// What a sanitizer's runtime calls before a process ends.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr char kCallsOfSanitizers[] = "\nsigaltstack\n";
#else
constexpr char kCallsOfSanitizers[] = "";
#endif
constexpr int kWaitMs = 20'000;

FilteredEnd Failed(absl::string_view error) {
  FilteredEnd end;
  end.error = std::string(error);
  return end;
}

// Installs the filter and sends its listener through `socket`.
bool InstallFilter(const std::vector<sock_filter>& program, int socket) {
  const sock_fprog filter = {.len = static_cast<unsigned short>(program.size()),  // NOLINT
                             .filter = const_cast<sock_filter*>(program.data())};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  const int64_t listener =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  if (listener < 0) return false;
  const int fd = static_cast<int>(listener);
  return SendSocketMessage(socket, "listener", {&fd, 1}).ok() && close(fd) == 0;
}

}  // namespace

FilteredEnd RunFiltered(const FilteredChild& options) {
  FilteredEnd end;
  const absl::StatusOr<std::vector<sock_filter>> program =
      CompileDevicePolicy(absl::StrCat(options.device_policy, kCallsOfSanitizers));
  if (!program.ok()) return Failed(program.status().message());
  auto sockets = CreateSocketPair(SOCK_SEQPACKET);
  if (!sockets.ok()) return Failed(sockets.status().message());
  const pid_t child = fork();
  if (child < 0) return Failed(absl::StrCat("fork: ", strerror(errno)));
  if (child == 0) {
    options.prepare();
    _exit(InstallFilter(*program, sockets->second.get()) ? options.body() : kNoFilter);
  }
  sockets->second.reset();
  absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(sockets->first.get(), 64, absl::Seconds(20));
  if (message.ok() && message->descriptors.size() == 1) {
    options.meanwhile();
    pollfd listener = {.fd = message->descriptors[0].get(), .events = POLLIN, .revents = 0};
    while (end.violation.empty()) {
      seccomp_notif notification = {};
      if (poll(&listener, 1, kWaitMs) != 1 || (listener.revents & POLLIN) == 0) break;
      if (ioctl(listener.fd, SECCOMP_IOCTL_NOTIF_RECV, &notification) == 0) {
        end.violation = DescribeViolation(notification, "");
      } else if (errno != EINTR && errno != ENOENT) {
        break;  // else the call was interrupted, and is made again
      }
    }
  } else {
    end.error = "no listener came";
  }
  if (!end.violation.empty() || !end.error.empty()) kill(child, SIGKILL);
  int status = 0;
  if (waitpid(child, &status, 0) == child && WIFEXITED(status)) end.exit_code = WEXITSTATUS(status);
  return end;
}

}  // namespace bulkhead::vmm
