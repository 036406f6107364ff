#ifndef BULKHEAD_BASE_SHELTERED_FD_H_
#define BULKHEAD_BASE_SHELTERED_FD_H_

#include <fcntl.h>

#include <utility>

#include "base/unique_fd.h"

namespace bulkhead {

// Descriptors from this number on are not copied into new processes, not even until execve(2)
// (vmm/process/spawn_process.cc). Closing such a copy could block: close(2) of a file on FUSE, or
// of a written file on NFS, asks the server. The number is above all other descriptors of the
// largest VM, below usual hard limits, and a multiple of 64, because the kernel copies them in
// groups of 64.
inline constexpr int kFirstShelteredFd = 3072;

// Moves `fd` to such a number, or returns it unchanged if the limit of open files forbids that.
inline UniqueFd Shelter(UniqueFd fd) {
  UniqueFd sheltered(fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirstShelteredFd));
  return sheltered.ok() ? std::move(sheltered) : std::move(fd);
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SHELTERED_FD_H_
