#include "proto/channel/wake_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/status_macros.h"

namespace bulkhead::channel {

absl::StatusOr<WakePipe> WakePipe::Create() {
  ASSIGN_OR_RETURN(Pipe pipe, CreatePipe(O_NONBLOCK));
  return WakePipe(std::move(pipe));
}

void WakePipe::Signal() const {
  const char byte = 0;
  // EAGAIN: the pipe is full, so its reader is being woken anyway.
  while (write(pipe_.write_end.get(), &byte, sizeof(byte)) < 0 && errno == EINTR) {
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
