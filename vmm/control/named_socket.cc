#include "vmm/control/named_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "proto/control_socket.h"

namespace bulkhead::vmm {
namespace {

constexpr int kMostOfOneName = 1000;
constexpr absl::Duration kLockTimeout = absl::Seconds(5);
constexpr absl::Duration kLockRetryInterval = absl::Milliseconds(2);

// Whoever can write there could put a socket of their own in the place of a VM's.
absl::StatusOr<UniqueFd> OpenDirectory(const std::string& directory) {
  const std::string what = absl::StrCat("the folder of control sockets, '", directory, "'");
  constexpr char kElse[] = "; or give --control PATH, or --control none";
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    const absl::Status status = ErrnoToStatus(errno, what);
    return absl::Status(status.code(), absl::StrCat(status.message(), kElse));
  }
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, what);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, what);
  if (info.st_uid != geteuid() || (info.st_mode & 022) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " is not this user's alone: make it so", kElse));
  }
  return fd;
}

// Between looking whether a socket is alive and taking its place nobody else may do the same.
// The lock goes with the descriptor.
absl::Status Lock(int directory_fd, const std::string& directory) {
  const absl::Time deadline = SteadyNow() + kLockTimeout;
  while (flock(directory_fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return ErrnoToStatus(errno, absl::StrCat("locking ", directory));
    if (SteadyNow() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("another process holds the lock of '", directory, "'"));
    }
    absl::SleepFor(kLockRetryInterval);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NamedSocket> OpenNamedSocket(const std::string& directory, const std::string& name,
                                            bool name_given) {
  ASSIGN_OR_RETURN(const UniqueFd lock, OpenDirectory(directory));
  RETURN_IF_ERROR(Lock(lock.get(), directory));
  for (int number = 1; number <= kMostOfOneName; ++number) {
    std::string candidate = number == 1 ? name : absl::StrCat(name, "-", number);
    absl::StatusOr<ListeningSocket> socket =
        ListeningSocket::Open(ControlSocketPath(directory, candidate));
    if (socket.ok()) return NamedSocket{std::move(candidate), *std::move(socket)};
    if (!absl::IsAlreadyExists(socket.status())) return socket.status();
    if (name_given) {
      return absl::InvalidArgumentError(
          absl::StrCat("name: a VM called \"", name, "\" runs: ", socket.status().message()));
    }
  }
  return absl::ResourceExhaustedError(absl::StrCat("all names from \"", name, "\" to \"", name, "-",
                                                   kMostOfOneName,
                                                   "\" are taken: give one with --name"));
}

}  // namespace bulkhead::vmm
