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

// Errors count as ready: read(2) or write(2) returns them.
bool IsReady(int fd, short events) {  // NOLINT(google-runtime-int): as in pollfd
  pollfd entry = {.fd = fd, .events = events, .revents = 0};
  return poll(&entry, 1, 0) == 1;
}

ssize_t WouldBlock() {
  errno = EAGAIN;
  return -1;
}

SharedStream::Kind KindOf(const struct stat& info) {
  return S_ISFIFO(info.st_mode)   ? SharedStream::Kind::kPipe
         : S_ISCHR(info.st_mode)  ? SharedStream::Kind::kTerminal
         : S_ISSOCK(info.st_mode) ? SharedStream::Kind::kSocket
                                  : SharedStream::Kind::kFile;
}

ssize_t WriteSome(int fd, SharedStream::Kind kind, absl::string_view bytes) {
  size_t size = bytes.size();
  switch (kind) {
    case SharedStream::Kind::kSocket:
      return send(fd, bytes.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    case SharedStream::Kind::kPipe:
    case SharedStream::Kind::kTerminal:
      if (!IsReady(fd, POLLOUT)) return WouldBlock();
      // A pipe that is ready has a page free, a terminal has room for one byte. A write(2) of more
      // waits for the rest.
      size = std::min<size_t>(size, kind == SharedStream::Kind::kPipe ? PIPE_BUF : 1);
      break;
    case SharedStream::Kind::kFile:
    case SharedStream::Kind::kOwn:
      break;
  }
  return write(fd, bytes.data(), size);
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
  return SharedStream(std::move(copy), KindOf(info));
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
  return WriteSome(fd_.get(), kind_, bytes);
}

bool WriteNow(int fd, absl::string_view bytes) {
  struct stat info;
  if (fstat(fd, &info) != 0) return false;
  while (!bytes.empty()) {
    const ssize_t n = WriteSome(fd, KindOf(info), bytes);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace bulkhead
