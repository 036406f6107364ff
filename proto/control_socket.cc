#include "proto/control_socket.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bulkhead {
namespace {

constexpr char kRootsDirectory[] = "/run/bulkhead";

bool IsAbsolute(const char* path) { return path != nullptr && path[0] == '/'; }

std::string InSessionDirectory(absl::string_view xdg_runtime_dir) {
  return absl::StrCat(xdg_runtime_dir, "/bulkhead");
}

std::string InTmp(uid_t user) { return absl::StrCat("/tmp/bulkhead-", user); }

bool IsThisUsers(const char* folder) {
  struct stat info;
  return stat(folder, &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid();
}

}  // namespace

RuntimeEnvironment CurrentRuntimeEnvironment() {
  return {.bulkhead_runtime_dir = getenv("BULKHEAD_RUNTIME_DIR"),
          .xdg_runtime_dir = getenv("XDG_RUNTIME_DIR"),
          .user = geteuid()};
}

std::vector<std::string> RuntimeDirectories(const RuntimeEnvironment& environment) {
  if (IsAbsolute(environment.bulkhead_runtime_dir)) return {environment.bulkhead_runtime_dir};
  std::vector<std::string> directories;
  const auto add = [&](std::string directory) {
    if (std::find(directories.begin(), directories.end(), directory) == directories.end()) {
      directories.push_back(std::move(directory));
    }
  };
  if (environment.user == 0) add(kRootsDirectory);
  if (IsAbsolute(environment.xdg_runtime_dir)) add(InSessionDirectory(environment.xdg_runtime_dir));
  add(InSessionDirectory(absl::StrCat("/run/user/", environment.user)));
  add(InTmp(environment.user));
  return directories;
}

std::string RuntimeDirectory(const RuntimeEnvironment& environment,
                             absl::FunctionRef<bool(const char* folder)> is_users) {
  if (IsAbsolute(environment.bulkhead_runtime_dir)) return environment.bulkhead_runtime_dir;
  if (environment.user == 0) return kRootsDirectory;
  if (IsAbsolute(environment.xdg_runtime_dir) && is_users(environment.xdg_runtime_dir)) {
    return InSessionDirectory(environment.xdg_runtime_dir);
  }
  return InTmp(environment.user);
}

std::vector<std::string> RuntimeDirectories() {
  return RuntimeDirectories(CurrentRuntimeEnvironment());
}

std::string RuntimeDirectory() {
  return RuntimeDirectory(CurrentRuntimeEnvironment(), IsThisUsers);
}

std::string ControlSocketPath(absl::string_view directory, absl::string_view vm_name) {
  return absl::StrCat(directory, "/", vm_name, kControlSocketSuffix);
}

bool IsControlSocketPath(absl::string_view directory, absl::string_view path) {
  return absl::ConsumePrefix(&path, directory) && absl::ConsumePrefix(&path, "/") &&
         absl::EndsWith(path, kControlSocketSuffix) && !absl::StrContains(path, '/');
}

}  // namespace bulkhead
