#include "base/shared_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"

namespace bulkhead {
namespace {

// Errors count as ready: the call tells which.
bool IsReady(int fd, short events) {  // NOLINT(google-runtime-int): as in pollfd
  pollfd entry = {.fd = fd, .events = events, .revents = 0};
  return poll(&entry, 1, 0) == 1;
}

ssize_t WouldBlock() {
  errno = EAGAIN;
  return -1;
}

}  // namespace

absl::StatusOr<SharedStream> SharedStream::Create(int fd, int direction) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoToStatus(errno, "fstat of a standard stream");
  if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
    const std::string path = absl::StrCat("/proc/self/fd/", fd);
    UniqueFd own(open(path.c_str(), direction | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (own.ok()) return SharedStream(std::move(own), Kind::kOwn);
  }
  return CreateAsGiven(fd);
}

absl::StatusOr<SharedStream> SharedStream::CreateAsGiven(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoToStatus(errno, "fstat of a standard stream");
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.ok()) return ErrnoToStatus(errno, "fcntl of a standard stream");
  const Kind kind = S_ISFIFO(info.st_mode)   ? Kind::kPipe
                    : S_ISCHR(info.st_mode)  ? Kind::kTerminal
                    : S_ISSOCK(info.st_mode) ? Kind::kSocket
                                             : Kind::kFile;
  return SharedStream(std::move(copy), kind);
}

ssize_t SharedStream::Read(char* bytes, size_t size) const {
  switch (kind_) {
    case Kind::kSocket:
      return recv(fd_.get(), bytes, size, MSG_DONTWAIT);
    case Kind::kPipe:
    case Kind::kTerminal:
      // Only another reader of the same terminal could take it in between.
      if (!IsReady(fd_.get(), POLLIN)) return WouldBlock();
      break;
    case Kind::kFile:
    case Kind::kOwn:
      break;
  }
  return read(fd_.get(), bytes, size);
}

ssize_t SharedStream::Write(absl::string_view bytes) const {
  size_t size = bytes.size();
  switch (kind_) {
    case Kind::kSocket:
      return send(fd_.get(), bytes.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    case Kind::kPipe:
    case Kind::kTerminal:
      if (!IsReady(fd_.get(), POLLOUT)) return WouldBlock();
      // A pipe that is ready has a page free, a terminal has room for one byte.
      size = std::min<size_t>(size, kind_ == Kind::kPipe ? PIPE_BUF : 1);
      break;
    case Kind::kFile:
    case Kind::kOwn:
      break;
  }
  return write(fd_.get(), bytes.data(), size);
}

}  // namespace bulkhead
