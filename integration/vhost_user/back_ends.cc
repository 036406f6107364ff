#include "integration/vhost_user/back_ends.h"

#include <stddef.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"

namespace bulkhead::integration {
namespace {

constexpr char kQemuVirtiofsd[] = "/usr/lib/qemu/virtiofsd";  // Debian 12

}  // namespace

std::string QcowBackEnd(const std::string& image, const std::string& backing) {
  return absl::StrCat(
      "back_end { binary: \"", kStorageDaemon, "\"\n",
      "    arg: \"--blockdev\" arg: \"driver=file,node-name=file,filename=", image, "\"\n",
      "    arg: \"--blockdev\" arg: \"driver=qcow2,node-name=disk,file=file\"\n",
      "    arg: \"--export\" arg: \"type=vhost-user-blk,id=disk,addr.type=fd,addr.str={socket},",
      "node-name=disk,writable=on,writethrough=on\"\n", "    file { path: \"", image, "\" } ",
      backing.empty() ? "" : absl::StrCat("file { path: \"", backing, "\" read_only: true } "),
      "}");
}

std::string VirtiofsdPath() {
  return access(kRustVirtiofsd, X_OK) == 0 ? kRustVirtiofsd : kQemuVirtiofsd;
}

pid_t ProcessOf(absl::string_view program, absl::string_view word) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    pid_t process = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &process)) continue;
    const std::string command = ReadFile(entry.path().string() + "/cmdline");
    if (absl::StartsWith(command, program) && absl::StrContains(command, word) &&
        IsAlive(process)) {
      return process;
    }
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
