#include "vmm/sandbox/seccomp_violation.h"

#include <seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kMaxArguments = 6;

// How many arguments a system call has. Of those that are not here all six registers are shown.
size_t ArgumentCount(absl::string_view name) {
  static constexpr struct {
    absl::string_view name;
    size_t count;
  } kCounts[] = {
      {"accept4", 4},    {"bind", 3},      {"clone", 5},     {"clone3", 2},  {"connect", 3},
      {"dup", 1},        {"dup2", 2},      {"dup3", 3},      {"execve", 3},  {"execveat", 5},
      {"fcntl", 3},      {"fdatasync", 1}, {"fork", 0},      {"fsync", 1},   {"ftruncate", 2},
      {"getppid", 0},    {"ioctl", 3},     {"kill", 2},      {"listen", 2},  {"memfd_create", 2},
      {"mmap", 6},       {"mprotect", 3},  {"openat2", 4},   {"pipe2", 2},   {"pread64", 4},
      {"prctl", 5},      {"preadv", 5},    {"prlimit64", 4}, {"ptrace", 4},  {"pwrite64", 4},
      {"pwritev", 5},    {"readv", 3},     {"sendto", 6},    {"setns", 2},   {"socket", 3},
      {"socketpair", 4}, {"tgkill", 3},    {"unlink", 1},    {"unshare", 1}, {"vfork", 0},
      {"wait4", 4},      {"waitid", 5},    {"writev", 3},
  };
  for (const auto& [known, count] : kCounts) {
    if (known == name) return count;
  }
  return kMaxArguments;
}

absl::string_view FamilyName(uint64_t family) {
  switch (family) {
    case AF_UNIX:
      return "AF_UNIX=";
    case AF_INET:
      return "AF_INET=";
    case AF_INET6:
      return "AF_INET6=";
    case AF_NETLINK:
      return "AF_NETLINK=";
    case AF_VSOCK:
      return "AF_VSOCK=";
    case AF_ALG:
      return "AF_ALG=";
    default:
      return "";
  }
}

}  // namespace

std::string DescribeViolation(const seccomp_notif& notification, absl::string_view thread_name) {
  const seccomp_data& data = notification.data;
  const std::unique_ptr<char, void (*)(void*)> known(
      seccomp_syscall_resolve_num_arch(data.arch, data.nr), free);
  const std::string name = known != nullptr ? known.get() : absl::StrCat("number ", data.nr);
  std::vector<std::string> arguments;
  for (size_t i = 0; i < ArgumentCount(name); ++i) {
    const absl::string_view family = i == 0 && name == "socket" ? FamilyName(data.args[0]) : "";
    arguments.push_back(absl::StrCat(family, "0x", absl::Hex(data.args[i])));
  }
  return absl::StrCat("system call ", name, "(", absl::StrJoin(arguments, ", "), ") of thread ",
                      notification.pid,
                      thread_name.empty() ? "" : absl::StrCat(" (", thread_name, ")"));
}

}  // namespace bulkhead::vmm
