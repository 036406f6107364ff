#include "integration/harness/vm_process.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/testing/files.h"

namespace bulkhead::integration {

namespace {

constexpr char kHelperPrefix[] = "vmm-";

std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  // Any thread may have started one.
  std::error_code ignored;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", parent, "/task"), ignored)) {
    std::istringstream pids(ReadFile(absl::StrCat(task.path().string(), "/children")));
    for (pid_t child; pids >> child;) children.push_back(child);
  }
  return children;
}

// With a newline.
std::string CommandOf(pid_t pid) { return ReadFile(absl::StrCat("/proc/", pid, "/comm")); }

}  // namespace

std::string DataFile(absl::string_view path) {
  const char* runfiles = getenv("TEST_SRCDIR");
  const std::string root = runfiles == nullptr ? "." : runfiles;
  constexpr absl::string_view kExternal = "external/";
  if (path.substr(0, kExternal.size()) == kExternal) {
    return absl::StrCat(root, "/", path.substr(kExternal.size()));
  }
  return absl::StrCat(root, "/bulkhead/", path);
}

absl::StatusOr<std::unique_ptr<VmProcess>> VmProcess::Start(const std::vector<std::string>& flags,
                                                            const std::string& shell) {
  // A guest that is gone must not end the test by SIGPIPE.
  signal(SIGPIPE, SIG_IGN);
  // For control sockets: a test's sandbox has no writable /run.
  if (const char* folder = getenv("TEST_TMPDIR"); folder != nullptr) {
    setenv("BULKHEAD_RUNTIME_DIR", folder, /*overwrite=*/0);
  }
  std::vector<std::string> command = {DataFile("vmm/vmm")};
  if (!shell.empty()) {
    command.insert(command.begin(), {"/bin/sh", "-c", absl::StrCat(shell, "; exec \"$0\" \"$@\"")});
  }
  command.insert(command.end(), flags.begin(), flags.end());
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  ASSIGN_OR_RETURN(std::unique_ptr<ChildProcess> process,
                   ChildProcess::Start(command, environment));
  return std::unique_ptr<VmProcess>(new VmProcess(std::move(process)));
}

std::vector<VmProcess::Child> VmProcess::Children() const {
  std::vector<Child> children;
  for (const pid_t child : ChildrenOf(pid())) {
    if (absl::StartsWith(CommandOf(child), kHelperPrefix)) continue;
    // The command line's first string ends at its first zero byte.
    const std::string argv0 = ReadFile(absl::StrCat("/proc/", child, "/cmdline")).c_str();
    children.push_back({argv0.substr(argv0.rfind('/') + 1), child});
  }
  return children;
}

pid_t VmProcess::PidOf(absl::string_view name) const {
  for (const Child& child : Children()) {
    if (child.name == name) return child.pid;
  }
  return kNoProcess;
}

pid_t VmProcess::HelperPid(absl::string_view name) const {
  const std::string command = absl::StrCat(name, "\n");
  for (const pid_t child : ChildrenOf(pid())) {
    if (CommandOf(child) == command) return child;
    if (CommandOf(child) != "vmm-keeper\n") continue;
    for (const pid_t side_process : ChildrenOf(child)) {
      if (CommandOf(side_process) == command) return side_process;
    }
  }
  return kNoProcess;
}

}  // namespace bulkhead::integration
