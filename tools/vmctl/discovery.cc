#include "tools/vmctl/discovery.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "proto/control_socket.h"

namespace bulkhead::vmctl {
namespace {

// Sockets of other people are not to be taken for this user's VMs: a console takes passwords.
absl::Status CheckTrusted(const std::string& directory) {
  struct stat info;
  if (lstat(directory.c_str(), &info) != 0) return ErrnoToStatus(errno, directory);
  if (!S_ISDIR(info.st_mode)) {
    return absl::PermissionDeniedError(absl::StrCat(directory, " is no directory"));
  }
  if ((info.st_uid != geteuid() && info.st_uid != 0) || (info.st_mode & S_IWOTH) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "control sockets in %s are not to be trusted: it belongs to user %d and has mode %o; "
        "--socket PATH names one regardless",
        directory, info.st_uid, info.st_mode & 07777));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SocketNames(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(opendir(directory.c_str()), closedir);
  if (stream == nullptr) return ErrnoToStatus(errno, directory);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream.get())) {
    absl::string_view name = entry->d_name;
    if (absl::ConsumeSuffix(&name, kControlSocketSuffix) && !name.empty()) names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string NoneRuns(const std::string& directory) {
  return absl::StrCat("no VM runs: nobody listens on a control socket in ", directory,
                      "; start one with vmm, or name one elsewhere with --socket PATH");
}

}  // namespace

absl::StatusOr<UniqueFd> ConnectSocket(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path,
                                                   "\" cannot be a socket's path: it has 1 to ",
                                                   sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return ErrnoToStatus(errno, "socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(absl::StrCat("there is no socket ", path));
    case ECONNREFUSED:
      return absl::NotFoundError(
          absl::StrCat("nobody listens on ", path, " any more: its vmm ended without removing it"));
    case EAGAIN:
      return absl::ResourceExhaustedError(
          absl::StrCat("the vmm behind ", path, " accepts no connection: it hangs or is stopped"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat(
          "no permission for ", path, ": only the user who started the VM, and root, control it"));
    default:
      return ErrnoToStatus(errno, absl::StrCat("cannot connect to ", path));
  }
}

absl::StatusOr<std::vector<VmAddress>> FindRunningVms(const std::string& directory) {
  if (absl::Status status = CheckTrusted(directory); !status.ok()) {
    if (absl::IsNotFound(status)) return std::vector<VmAddress>();
    return status;
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, SocketNames(directory));
  std::vector<VmAddress> running;
  for (const std::string& name : names) {
    VmAddress vm{name, ControlSocketPath(directory, name)};
    const absl::Status status = ConnectSocket(vm.socket_path).status();
    // One that hangs runs.
    if (status.ok() || absl::IsResourceExhausted(status)) running.push_back(std::move(vm));
  }
  return running;
}

absl::StatusOr<VmAddress> ChooseVm(const std::string& directory, const std::string& name) {
  ASSIGN_OR_RETURN(const std::vector<VmAddress> running, FindRunningVms(directory));
  const std::string names = absl::StrJoin(
      running, ", ", [](std::string* out, const VmAddress& vm) { absl::StrAppend(out, vm.name); });
  if (name.empty()) {
    if (running.empty()) return absl::NotFoundError(NoneRuns(directory));
    if (running.size() == 1) return running.front();
    return absl::FailedPreconditionError(
        absl::StrCat(running.size(), " VMs run; say which with --vm NAME: ", names));
  }
  for (const VmAddress& vm : running) {
    if (vm.name == name) return vm;
  }
  if (running.empty()) {
    return absl::NotFoundError(absl::StrCat("no VM \"", name, "\" runs: ", NoneRuns(directory)));
  }
  return absl::NotFoundError(absl::StrCat("no VM \"", name, "\" runs; there is: ", names));
}

VmAddress VmBehindSocket(const std::string& path) {
  absl::string_view name = path;
  const size_t slash = name.rfind('/');
  if (slash != absl::string_view::npos) name.remove_prefix(slash + 1);
  absl::ConsumeSuffix(&name, kControlSocketSuffix);
  return {std::string(name), path};
}

}  // namespace bulkhead::vmctl
