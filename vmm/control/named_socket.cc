#include "vmm/control/named_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "proto/control_socket.h"

namespace bulkhead::vmm {
namespace {

constexpr int kMaxVmsOfOneName = 1000;

// The directory must be private: another user who can write there could replace a VM's socket.
absl::Status MakeDirectory(const std::string& directory) {
  const std::string what = absl::StrCat("control socket directory '", directory, "'");
  constexpr char kElse[] = "; or give --control PATH, or --control none";
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    const absl::Status status = ErrnoToStatus(errno, what);
    return absl::Status(status.code(), absl::StrCat(status.message(), kElse));
  }
  const UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, what);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, what);
  if (info.st_uid != geteuid() || (info.st_mode & 022) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        what, ": another user owns it, or other users may write to it: make it private", kElse));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NamedSocket> OpenNamedSocket(const std::string& directory, const std::string& name,
                                            bool name_given) {
  RETURN_IF_ERROR(MakeDirectory(directory));
  for (int number = 1; number <= kMaxVmsOfOneName; ++number) {
    std::string candidate = number == 1 ? name : absl::StrCat(name, "-", number);
    absl::StatusOr<ListeningSocket> socket =
        ListeningSocket::Open(ControlSocketPath(directory, candidate));
    if (socket.ok()) return NamedSocket{std::move(candidate), *std::move(socket)};
    if (!absl::IsAlreadyExists(socket.status())) return socket.status();
    if (name_given) {
      return absl::InvalidArgumentError(
          absl::StrCat("name: a VM named \"", name, "\" is running: ", socket.status().message()));
    }
  }
  return absl::ResourceExhaustedError(absl::StrCat("all names from \"", name, "\" to \"", name, "-",
                                                   kMaxVmsOfOneName,
                                                   "\" are in use: give another one with --name"));
}

}  // namespace bulkhead::vmm
