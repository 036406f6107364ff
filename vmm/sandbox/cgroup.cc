#include "vmm/sandbox/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

// The controllers of CgroupLimits.
constexpr absl::string_view kControllers[] = {"memory", "cpu", "io", "pids"};

absl::Status Error(absl::string_view what, int error) {
  return absl::FailedPreconditionError(
      absl::StrCat("control groups: ", what, ": ", strerror(error)));
}

// Each write(2) is one command to the kernel.
absl::Status Write(const std::string& path, absl::string_view text) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.ok()) return Error(path, errno);
  if (write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    return absl::OkStatus();
  }
  return Error(absl::StrCat("writing \"", text, "\" to ", path), errno);
}

absl::StatusOr<UniqueFd> MakeFolder(const std::string& path) {
  // A vmm that was killed together with its helpers has left it behind.
  if (mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) return Error(path, errno);
  UniqueFd folder(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder.ok()) return Error(path, errno);
  return folder;
}

// The folder of this process's group; empty: it cannot be seen.
std::string OwnGroup() {
  std::string group;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    absl::string_view path = line;
    if (absl::ConsumePrefix(&path, "0::")) group = std::string(path);
  }
  if (group.empty()) return "";
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw"
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() < 5 || !absl::StrContains(line, " - cgroup2 ")) continue;
    // A container may also have mounts of groups that this one is not in.
    absl::string_view below = group;
    const bool is_in = words[3] == "/" || (absl::ConsumePrefix(&below, words[3]) &&
                                           (below.empty() || below[0] == '/'));
    if (is_in) return absl::StrCat(words[4], below);
  }
  return "";
}

bool IsDelegated(const std::string& path) {
  for (const char* name : {"user.delegate", "trusted.delegate"}) {
    char value = 0;
    if (getxattr(path.c_str(), name, &value, 1) == 1 && value == '1') return true;
  }
  return false;
}

}  // namespace

void Cgroup::Kill() const {
  if (kill_.ok()) (void)!write(kill_.get(), "1", 1);
}

uint64_t Cgroup::OomKills() const {
  std::ifstream events(path_ + "/memory.events");
  std::string name;
  for (uint64_t count = 0; events >> name >> count;) {
    if (name == "oom_kill") return count;
  }
  return 0;
}

std::string CgroupTree::DelegatedPath() {
  const std::string folder = OwnGroup();
  return !folder.empty() && IsDelegated(folder) ? folder : "";
}

UniqueFd CgroupTree::OpenOrigin() {
  return UniqueFd(open(absl::StrCat(OwnGroup(), "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
}

std::string CgroupTree::VmmGroup(absl::string_view name) { return absl::StrCat(name, "-vmm"); }
std::string CgroupTree::DeviceGroup(absl::string_view name, absl::string_view device) {
  return absl::StrCat(name, "-device-", device);
}

absl::StatusOr<std::unique_ptr<CgroupTree>> CgroupTree::Create(const std::string& path,
                                                               absl::string_view name,
                                                               const std::vector<pid_t>& helpers) {
  const std::string own = absl::StrCat(path, "/", VmmGroup(name));
  RETURN_IF_ERROR(MakeFolder(own).status());
  // First: a group with processes of its own cannot hand controllers down.
  RETURN_IF_ERROR(Write(own + "/cgroup.procs", "0"));
  for (const pid_t helper : helpers) {
    RETURN_IF_ERROR(Write(own + "/cgroup.procs", absl::StrCat(helper)));
  }
  for (const absl::string_view controller : kControllers) {
    // What is not there is missed when a limit is set.
    Write(path + "/cgroup.subtree_control", absl::StrCat("+", controller)).IgnoreError();
  }
  return absl::WrapUnique(new CgroupTree(path, std::string(name)));
}

absl::StatusOr<std::shared_ptr<const Cgroup>> CgroupTree::Add(absl::string_view device,
                                                              const CgroupLimits& limits) const {
  const std::string path = absl::StrCat(path_, "/", DeviceGroup(name_, device));
  ASSIGN_OR_RETURN(UniqueFd folder, MakeFolder(path));
  UniqueFd kill(openat(folder.get(), "cgroup.kill", O_WRONLY | O_CLOEXEC));  // Linux 5.14
  std::shared_ptr<const Cgroup> group(new Cgroup(std::move(folder), std::move(kill), path));
  const std::pair<absl::string_view, uint64_t> files[] = {{"memory.max", limits.memory_bytes},
                                                          {"cpu.weight", limits.cpu_weight},
                                                          {"io.weight", limits.io_weight},
                                                          {"pids.max", limits.processes}};
  for (const auto& [file, value] : files) {
    if (value != 0) RETURN_IF_ERROR(Write(absl::StrCat(path, "/", file), absl::StrCat(value)));
  }
  if (limits.memory_bytes != 0) {
    RETURN_IF_ERROR(
        Write(path + "/memory.oom.group", "1"));  // a process without its threads is no use
  }
  return group;
}

}  // namespace bulkhead::vmm
