#include "proto/channel/wake_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/errno_status.h"

namespace bulkhead::channel {

absl::StatusOr<WakePipe> WakePipe::Create() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoToStatus(errno, "pipe2");
  return WakePipe(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

void WakePipe::Signal() const {
  const char byte = 0;
  // EAGAIN: the pipe is full, so its reader is being woken anyway.
  while (write(write_.get(), &byte, sizeof(byte)) < 0 && errno == EINTR) {
  }
}

void DrainWakePipe(int read_fd) {
  char bytes[512];
  ssize_t n;
  do {
    n = read(read_fd, bytes, sizeof(bytes));
  } while (n == sizeof(bytes) || (n < 0 && errno == EINTR));
}

}  // namespace bulkhead::channel
