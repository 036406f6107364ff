#include "devices/uart16550/output_stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/log.h"

namespace bulkhead::devices::uart16550 {

absl::StatusOr<OutputStream> OutputStream::Create(UniqueFd fd, uint64_t max_file_bytes) {
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, "fstat of the output");
  const Kind kind = S_ISREG(info.st_mode)    ? Kind::kFile
                    : S_ISSOCK(info.st_mode) ? Kind::kSocket
                                             : Kind::kOther;
  UniqueFd readiness(epoll_create1(EPOLL_CLOEXEC));
  if (!readiness.ok()) return ErrnoToStatus(errno, "epoll_create1");
  return OutputStream(std::move(fd), std::move(readiness), kind, max_file_bytes);
}

size_t OutputStream::Write(absl::Span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t written = TryWrite(bytes.subspan(done));
    if (written >= 0) {
      done += static_cast<size_t>(written);
    } else if (errno == EAGAIN) {
      return AwaitReadiness() ? done : bytes.size();
    } else if (errno != EINTR) {
      // Nobody will read it (EPIPE, EIO of a terminal that hung up) or it has no room (ENOSPC).
      ReportOnce(strerror(errno));
      return bytes.size();
    }
  }
  return done;
}

ssize_t OutputStream::TryWrite(absl::Span<const uint8_t> bytes) {
  switch (kind_) {
    case Kind::kFile:
      return TryWriteFile(bytes);
    case Kind::kSocket:
      return send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    case Kind::kOther:
      return TryWriteOther(bytes);
  }
  __builtin_unreachable();
}

ssize_t OutputStream::TryWriteFile(absl::Span<const uint8_t> bytes) {
  const size_t allowed = std::min<uint64_t>(bytes.size(), file_bytes_left_);
  if (allowed == 0) {
    ReportOnce("the output file has reached its size limit");
    return static_cast<ssize_t>(bytes.size());
  }
  const ssize_t written = write(fd_.get(), bytes.data(), allowed);
  if (written > 0) file_bytes_left_ -= static_cast<uint64_t>(written);
  return written;
}

ssize_t OutputStream::TryWriteOther(absl::Span<const uint8_t> bytes) {
  if (has_nowait_) {
    const iovec part = {const_cast<uint8_t*>(bytes.data()), bytes.size()};
    const ssize_t written = pwritev2(fd_.get(), &part, 1, -1, RWF_NOWAIT);
    if (written >= 0 || (errno != EOPNOTSUPP && errno != EINVAL)) return written;
    has_nowait_ = false;
  }
  // A terminal, or an older kernel's pipe: writable means room for one byte at least, and only
  // another writer of the same descriptor could take it in between.
  if (!IsWritable()) {
    errno = EAGAIN;
    return -1;
  }
  return write(fd_.get(), bytes.data(), 1);
}

bool OutputStream::IsWritable() const {
  pollfd entry = {.fd = fd_.get(), .events = POLLOUT, .revents = 0};
  // Errors count as writable: the write tells which.
  return poll(&entry, 1, 0) == 1;
}

bool OutputStream::AwaitReadiness() {
  epoll_event event = {};
  event.events = EPOLLOUT | EPOLLONESHOT;
  // Modifying looks at the descriptor anew: what has become ready meanwhile is not missed.
  const int operation = registered_ ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(readiness_.get(), operation, fd_.get(), &event) != 0) {
    ReportOnce(absl::StrCat("it cannot be waited for: ", strerror(errno)));
    return false;
  }
  registered_ = true;
  return true;
}

void OutputStream::AcknowledgeReadiness() {
  epoll_event event;
  epoll_wait(readiness_.get(), &event, 1, 0);
}

void OutputStream::ReportOnce(absl::string_view why) {
  if (reported_) return;
  reported_ = true;
  LogWarning(absl::StrCat("output is lost: ", why));
}

}  // namespace bulkhead::devices::uart16550
