#include "base/write_now.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace bulkhead {

bool WriteNow(int fd, absl::string_view bytes) {
  // A write(2) of more than a terminal has room for waits for the rest.
  struct stat info;
  const bool is_terminal = fstat(fd, &info) == 0 && S_ISCHR(info.st_mode);
  const size_t piece = is_terminal ? 1 : PIPE_BUF;
  while (!bytes.empty()) {
    pollfd p = {.fd = fd, .events = POLLOUT, .revents = 0};
    if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) return false;
    const ssize_t n = write(fd, bytes.data(), std::min(bytes.size(), piece));
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace bulkhead
