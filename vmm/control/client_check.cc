#include "vmm/control/client_check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

// A longer line of ancestors is refused: a device could make one.
constexpr int kMostAncestors = 256;

// Empty: the process has ended, or is hidden.
std::optional<pid_t> ParentOf(pid_t pid) {
  const UniqueFd fd(open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char text[512];
  const ssize_t size = fd.ok() ? read(fd.get(), text, sizeof(text)) : -1;
  if (size <= 0) return std::nullopt;
  // "PID (NAME) STATE PARENT ...": the name may contain anything.
  const absl::string_view line(text, static_cast<size_t>(size));
  const size_t name_end = line.rfind(')');
  if (name_end == absl::string_view::npos) return std::nullopt;
  const std::vector<absl::string_view> fields = absl::StrSplit(line.substr(name_end), ' ');
  pid_t parent = 0;
  if (fields.size() < 3 || !absl::SimpleAtoi(fields[2], &parent)) return std::nullopt;
  return parent;
}

// A pidfd says in how many PID namespaces its process is, also where /proc hides processes.
bool IsInOwnNamespace(int connection) {
  constexpr int kPeerPidFd = 77;  // SO_PEERPIDFD; not in Debian 12's headers
  int peer = -1;
  socklen_t size = sizeof(peer);
  if (getsockopt(connection, SOL_SOCKET, kPeerPidFd, &peer, &size) != 0) return false;
  const UniqueFd pid_fd(peer);
  const UniqueFd info(open(absl::StrCat("/proc/self/fdinfo/", peer).c_str(), O_RDONLY | O_CLOEXEC));
  char text[512];
  const ssize_t bytes = info.ok() ? read(info.get(), text, sizeof(text)) : -1;
  if (bytes <= 0) return false;
  for (absl::string_view line :
       absl::StrSplit(absl::string_view(text, static_cast<size_t>(bytes)), '\n')) {
    // One number for each namespace; -1: it has ended.
    pid_t pid = 0;
    if (absl::ConsumePrefix(&line, "NSpid:\t")) return absl::SimpleAtoi(line, &pid) && pid > 0;
  }
  return false;
}

}  // namespace

std::string ClientProcess::Name() const { return absl::StrCat("user ", user, ", process ", pid); }

ServingProcess ServingProcess::Current() { return {.user = geteuid(), .pid = getpid()}; }

absl::StatusOr<ClientProcess> ClientOf(int connection) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return ErrnoToStatus(errno, "SO_PEERCRED");
  }
  return ClientProcess{
      .user = peer.uid, .pid = peer.pid, .in_own_namespace = IsInOwnNamespace(connection)};
}

absl::Status CheckUser(const ClientProcess& client, const ServingProcess& server) {
  if (client.user == server.user || client.user == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("only user ", server.user, ", who runs this VM, and root may control it"));
}

absl::Status CheckNotDescendant(const ClientProcess& client, const ServingProcess& server) {
  // No descendant is outside of the PID namespace. Without privileges, those of the vmm have its
  // user, and /proc may hide the processes of others.
  if (client.pid == 0 || (server.user != 0 && client.user != server.user)) return absl::OkStatus();
  pid_t pid = client.pid;
  for (int i = 0; i < kMostAncestors; ++i) {
    const std::optional<pid_t> parent = ParentOf(pid);
    if (!parent.has_value()) {
      if (client.in_own_namespace) return absl::OkStatus();
      return absl::PermissionDeniedError(
          "the process, or one that started it, has ended, or is in a container, or /proc hides it "
          "(hidepid), for which the vmm needs Linux 6.5");
    }
    if (*parent == server.pid) {
      return absl::PermissionDeniedError(
          "it is a device process of this VM, or was started by one");
    }
    if (*parent == 0) return absl::OkStatus();
    pid = *parent;
  }
  return absl::PermissionDeniedError(
      absl::StrCat("it has more than ", kMostAncestors, " ancestors"));
}

}  // namespace bulkhead::vmm
