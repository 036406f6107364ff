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

// A folder in which only this user or root can put sockets.
absl::Status CheckTrusted(const std::string& directory) {
  struct stat info;
  if (lstat(directory.c_str(), &info) != 0) return ErrnoToStatus(errno, directory);
  if (!S_ISDIR(info.st_mode)) {
    return absl::PermissionDeniedError(absl::StrCat(directory, " is not a directory"));
  }
  if ((info.st_uid != geteuid() && info.st_uid != 0) || (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "%s: its control sockets are not trusted: it belongs to user %d and has mode %03o; "
        "--socket PATH names one regardless",
        directory, info.st_uid, info.st_mode & 07777));
  }
  return absl::OkStatus();
}

// Root may operate a VM of `user`, but only where that user is plain from the path: not in a folder
// where any user could have put the socket.
bool IsInFolderOf(const std::string& path, uid_t user) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  struct stat info;
  return stat(folder.c_str(), &info) == 0 && info.st_uid == user &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

// Who listens is seen only after connecting; nothing has been sent by then.
absl::Status CheckPeer(int fd, const std::string& path) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("the peer of ", path));
  }
  if (peer.uid == geteuid() || peer.uid == 0) return absl::OkStatus();
  if (geteuid() == 0 && IsInFolderOf(path, peer.uid)) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("the process that listens on ", path, " belongs to user ", peer.uid,
                   ", who is neither this user (", geteuid(), ") nor root: it is not trusted"));
}

absl::StatusOr<std::vector<std::string>> SocketNames(const std::string& directory) {
  RETURN_IF_ERROR(CheckTrusted(directory));
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

void FindIn(const std::string& directory, RunningVms& running) {
  absl::StatusOr<std::vector<std::string>> names = SocketNames(directory);
  if (absl::IsNotFound(names.status())) return;
  if (!names.ok()) {
    running.warnings.emplace_back(names.status().message());
    return;
  }
  for (const std::string& name : *names) {
    VmAddress vm{name, ControlSocketPath(directory, name)};
    const absl::Status status = ConnectSocket(vm.socket_path).status();
    // One that hangs runs.
    if (status.ok() || absl::IsResourceExhausted(status)) {
      running.vms.push_back(std::move(vm));
    } else if (absl::IsPermissionDenied(status)) {
      running.warnings.emplace_back(status.message());
    }
  }
}

std::string Names(const std::vector<VmAddress>& vms) {
  return absl::StrJoin(
      vms, ", ", [](std::string* out, const VmAddress& vm) { absl::StrAppend(out, vm.name); });
}

std::string Sockets(const std::vector<VmAddress>& vms) {
  return absl::StrJoin(vms, ", ", [](std::string* out, const VmAddress& vm) {
    absl::StrAppend(out, vm.socket_path);
  });
}

std::string WhereLooked(const RunningVms& running) {
  return absl::StrCat(": no process listens on a control socket in ",
                      absl::StrJoin(running.directories, ", "));
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
    RETURN_IF_ERROR(CheckPeer(fd.get(), path));
    return fd;
  }
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(absl::StrCat("there is no socket ", path));
    case ECONNREFUSED:
      return absl::NotFoundError(absl::StrCat("no process listens on ", path,
                                              " any more: its vmm ended without removing it"));
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

RunningVms FindRunningVms(const std::vector<std::string>& directories) {
  RunningVms running;
  running.directories = directories;
  for (const std::string& directory : directories) FindIn(directory, running);
  return running;
}

std::string NoVmRuns(const RunningVms& running) {
  return absl::StrCat("no VM is running", WhereLooked(running));
}

absl::StatusOr<VmAddress> ChooseVm(const RunningVms& running, const std::string& name) {
  std::vector<VmAddress> chosen;
  for (const VmAddress& vm : running.vms) {
    if (name.empty() || vm.name == name) chosen.push_back(vm);
  }
  if (chosen.size() == 1) return chosen.front();
  if (chosen.size() > 1) {
    return absl::FailedPreconditionError(
        name.empty() ? absl::StrCat(chosen.size(),
                                    " VMs are running; give one of them with --vm "
                                    "NAME: ",
                                    Names(chosen))
                     : absl::StrCat(chosen.size(), " VMs named \"", name,
                                    "\" are running; give one "
                                    "of them with --socket PATH: ",
                                    Sockets(chosen)));
  }
  std::string text =
      absl::StrCat("no VM ", name.empty() ? "" : absl::StrCat("\"", name, "\" "), "is running");
  if (running.vms.empty()) {
    absl::StrAppend(&text, WhereLooked(running), "; start one with vmm, or give --socket PATH");
  } else {
    absl::StrAppend(&text, "; there is: ", Names(running.vms));
  }
  for (const std::string& warning : running.warnings) absl::StrAppend(&text, "; ", warning);
  return absl::NotFoundError(text);
}

VmAddress VmBehindSocket(const std::string& path) {
  absl::string_view name = path;
  const size_t slash = name.rfind('/');
  if (slash != absl::string_view::npos) name.remove_prefix(slash + 1);
  absl::ConsumeSuffix(&name, kControlSocketSuffix);
  return {std::string(name), path};
}

}  // namespace bulkhead::vmctl
