#include "vmm/control/listening_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "vmm/control/path_lock.h"

namespace bulkhead::vmm {
namespace {

constexpr mode_t kPrivate = 0600;
constexpr mode_t kForGroup = 0660;
constexpr int kBacklog = 64;

absl::StatusOr<sockaddr_un> Address(const std::string& path, const std::string& what) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the path has ", path.size(),
                                                   " bytes, must be 1 to ",
                                                   sizeof(address.sun_path) - 1));
  }
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket() {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return ErrnoToStatus(errno, "socket");
  return fd;
}

// Names the peer of a connected socket, for messages.
std::string Server(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return "another process";
  return absl::StrCat("process ", peer.pid);
}

// Removes a socket that has no listening process.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address,
                         const std::string& what) {
  struct stat file;
  if (lstat(path.c_str(), &file) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoToStatus(errno, what);
  }
  if (!S_ISSOCK(file.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat(what, ": not a socket; remove the file, or choose another path"));
  }
  ASSIGN_OR_RETURN(const UniqueFd probe, NewSocket());
  const int error =
      connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0
          ? 0
          : errno;
  if (error == 0 || error == EAGAIN) {  // EAGAIN: its backlog is full
    return absl::AlreadyExistsError(
        absl::StrCat(what, ": ", error == 0 ? Server(probe.get()) : "another process",
                     " serves it; end that process, or choose another path"));
  }
  if (error != ECONNREFUSED && error != ENOENT) {
    return ErrnoToStatus(error, what);
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoToStatus(errno, absl::StrCat("removing the old ", what));
  }
  return absl::OkStatus();
}

// Gives the new socket its group and mode, by descriptor: where others may write to the folder, the
// name may come to stand for another file.
absl::StatusOr<struct stat> SetAccess(const std::string& path, std::optional<gid_t> group,
                                      const std::string& what) {
  const mode_t mode = group.has_value() ? kForGroup : kPrivate;
  const UniqueFd fd(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat file;
  if (!fd.ok() || fstat(fd.get(), &file) != 0) return ErrnoToStatus(errno, what);
  if (!S_ISSOCK(file.st_mode)) {
    return absl::InternalError(absl::StrCat(what, ": another file has replaced it"));
  }
  if (group.has_value() &&
      fchownat(fd.get(), "", static_cast<uid_t>(-1), *group, AT_EMPTY_PATH) != 0) {
    return ErrnoToStatus(errno, absl::StrCat(what, ": giving it to group ", *group,
                                             ", which must be one of the user's"));
  }
  // A strict umask may have cleared bits that the user needs.
  if ((file.st_mode & 07777) != mode) {
    chmod(absl::StrCat("/proc/self/fd/", fd.get()).c_str(), mode);
  }
  if (fstat(fd.get(), &file) != 0) return ErrnoToStatus(errno, what);
  if ((file.st_mode & 07777) != mode || file.st_gid != group.value_or(file.st_gid)) {
    return absl::InternalError(
        absl::StrCat(what, ": its file system does not keep the mode or the group"));
  }
  return file;
}

}  // namespace

absl::StatusOr<ListeningSocket> ListeningSocket::Open(const std::string& path,
                                                      const Options& options) {
  const std::string what = absl::StrCat(options.kind, " '", path, "'");
  ASSIGN_OR_RETURN(const sockaddr_un address, Address(path, what));
  // Held until this socket listens. Otherwise a second vmm that found the same stale socket would
  // remove this one.
  absl::StatusOr<PathLock> lock = PathLock::Acquire(path);
  if (!lock.ok()) {
    return absl::Status(lock.status().code(), absl::StrCat(what, ": ", lock.status().message()));
  }
  RETURN_IF_ERROR(RemoveStale(path, address, what));
  ASSIGN_OR_RETURN(UniqueFd fd, NewSocket());
  // The kernel gives the file the socket's own mode, less the umask: so no other user can connect
  // between bind() and chmod().
  if (fchmod(fd.get(), kPrivate) != 0) return ErrnoToStatus(errno, what);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoToStatus(errno, what);
  }
  ASSIGN_OR_RETURN(const struct stat file, SetAccess(path, options.group, what));
  ListeningSocket listening(std::move(fd), path, file.st_dev, file.st_ino);
  if (listen(listening.fd(), kBacklog) != 0) return ErrnoToStatus(errno, what);
  return listening;
}

ListeningSocket::~ListeningSocket() {
  if (fd_.ok()) FileRemover()();
}

std::function<void()> ListeningSocket::FileRemover() const {
  return [path = path_, device = device_, inode = inode_] {
    struct stat file;
    if (lstat(path.c_str(), &file) != 0) return;
    if (file.st_dev == device && file.st_ino == inode) unlink(path.c_str());
  };
}

absl::StatusOr<UniqueFd> ListeningSocket::Accept() const {
  UniqueFd connection(accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (connection.ok()) return connection;
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
    return absl::UnavailableError("no connection is pending");
  }
  return ErrnoToStatus(errno, "accept4");
}

}  // namespace bulkhead::vmm
