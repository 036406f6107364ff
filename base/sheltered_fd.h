#ifndef BULKHEAD_BASE_SHELTERED_FD_H_
#define BULKHEAD_BASE_SHELTERED_FD_H_

#include <fcntl.h>

#include <utility>

#include "base/unique_fd.h"

namespace bulkhead {

// A process that this one starts has no copy of descriptors with this number or a higher one, not
// even until its program runs (vmm/process/spawn_process.cc). Closing such a copy can wait:
// close(2) of a file on FUSE, or of a written one on NFS, asks the server. More than the largest VM
// has of others, a multiple of 64 (the kernel copies by that many), and below usual hard limits.
inline constexpr int kFirstShelteredFd = 3072;

// Gives `fd` such a number; where the limit of open files does not allow that, it stays as it is.
inline UniqueFd Shelter(UniqueFd fd) {
  UniqueFd sheltered(fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirstShelteredFd));
  return sheltered.ok() ? std::move(sheltered) : std::move(fd);
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SHELTERED_FD_H_
