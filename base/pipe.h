#ifndef BULKHEAD_BASE_PIPE_H_
#define BULKHEAD_BASE_PIPE_H_

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "absl/status/statusor.h"
#include "base/errno_status.h"
#include "base/unique_fd.h"

namespace bulkhead {

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

// Both ends are closed by execve(2). `flags`: O_NONBLOCK for both ends, or 0. Errors: as pipe2(2).
inline absl::StatusOr<Pipe> CreatePipe(int flags = 0) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | flags) != 0) return ErrnoToStatus(errno, "pipe2");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_PIPE_H_
