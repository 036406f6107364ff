#include "integration/vhost_user/back_ends.h"

#include <stddef.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"

namespace bulkhead::integration {

std::string QcowBackEnd(const std::string& image, const std::string& backing) {
  return absl::StrCat(
      "back_end { binary: \"", kStorageDaemon, "\"\n",
      "    arg: \"--blockdev\" arg: \"driver=file,node-name=file,filename=", image, "\"\n",
      "    arg: \"--blockdev\" arg: \"driver=qcow2,node-name=disk,file=file\"\n",
      "    arg: \"--export\" arg: \"type=vhost-user-blk,id=disk,addr.type=fd,addr.str={socket},",
      "node-name=disk,writable=on,writethrough=on\"\n", "    file { path: \"", image,
      "\" } file { path: \"", backing, "\" read_only: true } }");
}

pid_t BackEndOf(const std::string& argument) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    pid_t process = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &process)) continue;
    const std::string command = ReadFile(entry.path().string() + "/cmdline");
    const bool is_back_end = absl::StartsWith(command, kStorageDaemon) ||
                             absl::StrContains(command.substr(0, command.find('\0')), "virtiofsd");
    if (is_back_end && absl::StrContains(command, argument)) return process;
  }
  return kNoProcess;
}

pid_t ParentOf(pid_t process) {
  const std::string status = ReadFile(absl::StrCat("/proc/", process, "/status"));
  const size_t at = status.find("\nPPid:\t");
  pid_t parent = kNoProcess;
  if (at == std::string::npos ||
      !absl::SimpleAtoi(status.substr(at + 7, status.find('\n', at + 7) - at - 7), &parent)) {
    return kNoProcess;
  }
  return parent;
}

}  // namespace bulkhead::integration
