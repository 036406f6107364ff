#include "vmm/sandbox/seccomp_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/testing/memory_use.h"
#include "gtest/gtest.h"
#include "vmm/sandbox/filtered_child.h"
#include "vmm/sandbox/sandbox_descriptors.h"

namespace bulkhead::vmm {
namespace {

void ExpectAllowed(const std::function<int()>& body, absl::string_view policy = "") {
  const FilteredEnd end = RunFiltered({.device_policy = std::string(policy), .body = body});
  EXPECT_EQ(end.error, "");
  EXPECT_EQ(end.violation, "");
  EXPECT_EQ(end.exit_code, 0);
}

void ExpectViolation(absl::string_view name, const std::function<int()>& body,
                     absl::string_view policy = "") {
  const FilteredEnd end = RunFiltered({.device_policy = std::string(policy), .body = body});
  EXPECT_EQ(end.error, "");
  EXPECT_TRUE(absl::StartsWith(end.violation, absl::StrCat("system call ", name, "(")))
      << name << ": " << end.violation << " exit code " << end.exit_code;
}

constexpr uint64_t kGlibcThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM |
                                  CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |
                                  CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;

TEST(SeccompPolicyTest, CommonPolicyAllowsWhatEveryDeviceNeeds) {
  ExpectAllowed([] {
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || mprotect(page, 4096, PROT_READ) != 0) return 1;
    if (prctl(PR_SET_NAME, "device") != 0 || prctl(PR_SET_DUMPABLE, 0) != 0) return 2;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return 3;
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 4;
    limit = {};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 7;
    if (fcntl(0, F_GETFL) < 0 || fcntl(2, F_SETFL, O_WRONLY | O_NONBLOCK) != 0) return 5;
    // ThreadSanitizer's kill() makes further system calls.
    if (syscall(SYS_kill, getpid(), SIGKILL) != -1 || errno != EPERM) return 6;
    return 0;
  });
}

TEST(SeccompPolicyTest, HarmlessProbesFailWithAnError) {
  ExpectAllowed([] {
    if (open("/etc/localtime", O_RDONLY) != -1 || errno != EACCES) return 1;
    if (access("/", R_OK) != -1 || errno != EACCES) return 2;
    char text[64];
    if (readlink("/proc/self/exe", text, sizeof(text)) != -1 || errno != EACCES) return 3;
    if (syscall(SYS_clone3, nullptr, 0) != -1 || errno != ENOSYS) return 4;
    return 0;
  });
}

TEST(SeccompPolicyTest, WhatNobodyAskedForIsAViolation) {
  ExpectViolation("socket", [] { return socket(AF_INET, SOCK_STREAM, 0); });
  ExpectViolation("ptrace", [] { return static_cast<int>(syscall(SYS_ptrace, 0, 0, 0, 0)); });
  ExpectViolation("execve", [] { return execl("/bin/true", "true", nullptr); });
  ExpectViolation("io_uring_setup", [] { return static_cast<int>(syscall(425, 1, nullptr)); });
  ExpectViolation("unshare", [] { return unshare(CLONE_NEWUSER); });
  ExpectViolation("memfd_create", [] { return memfd_create("x", 0); });
}

TEST(SeccompPolicyTest, CloneMakesThreadsOnly) {
  const auto clone_with = [](uint64_t flags) {
    return [flags] { return static_cast<int>(syscall(SYS_clone, flags, 0, 0, 0, 0)); };
  };
  ExpectViolation("clone", clone_with(SIGCHLD));
  ExpectViolation("clone", clone_with(kGlibcThread | CLONE_NEWUSER));
  ExpectViolation("clone", clone_with(kGlibcThread & ~uint64_t{CLONE_THREAD}));
  ExpectViolation("clone", clone_with(kGlibcThread | uint64_t{1} << 40));
}

TEST(SeccompPolicyTest, NoMemoryIsExecutable) {
  ExpectViolation("mmap", [] {
    (void)mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return 0;
  });
  ExpectViolation("mprotect", [] { return mprotect(nullptr, 4096, PROT_EXEC | PROT_WRITE); });
}

TEST(SeccompPolicyTest, FlagsOfSharedOpenFilesStay) {
  ExpectViolation("fcntl", [] { return fcntl(0, F_SETFL, O_NONBLOCK); });
  ExpectViolation("fcntl", [] { return fcntl(0, F_SETOWN, 1); });
  ExpectViolation("fcntl", [] { return fcntl(2, F_SETFL, O_WRONLY); });
  ExpectViolation("fcntl", [] { return fcntl(2, F_SETOWN, 1); });
}

TEST(SeccompPolicyTest, ProcessAttributesAreRestricted) {
  ExpectViolation("prctl", [] { return prctl(PR_SET_PDEATHSIG, 0); });
  ExpectViolation("prctl", [] { return prctl(PR_SET_DUMPABLE, 1); });
  ExpectViolation("prctl", [] { return prctl(PR_SET_SECCOMP, 1); });
  const rlimit limit = {};
  ExpectViolation("prlimit64", [&limit] { return setrlimit(RLIMIT_CORE, &limit); });
  ExpectViolation("prlimit64", [] { return prlimit(1, RLIMIT_CORE, nullptr, nullptr); });
  ExpectViolation(
      "tgkill", [] { return static_cast<int>(syscall(SYS_tgkill, getpid(), gettid(), SIGTERM)); });
}

TEST(SeccompPolicyTest, AbortEndsAsWithoutFilter) {
  const FilteredEnd end = RunFiltered({.body = []() -> int { abort(); }});
  EXPECT_EQ(end.violation, "");
  EXPECT_EQ(end.exit_code, -1);
}

TEST(SeccompPolicyTest, OnlyTheLaunchersDescriptorCanBeExecuted) {
  const auto execute = [](int fd, const char* path, int flags) {
    return [fd, path, flags] {
      const char* const arguments[] = {"true", nullptr};
      const char* const environment[] = {nullptr};
      syscall(SYS_execveat, fd, path, arguments, environment, flags);
      return errno;
    };
  };
  ExpectViolation("execveat", execute(5, "", AT_EMPTY_PATH));
  ExpectViolation("execveat", execute(kBinaryFd, "", 0));
  const FilteredEnd end = RunFiltered({.body = execute(kBinaryFd, "", AT_EMPTY_PATH)});
  EXPECT_EQ(end.violation, "");
  EXPECT_EQ(end.exit_code, EBADF);
}

// How a process ends that is attached, and then executes `body`.
FilteredEnd RunServing(const std::function<int()>& body, const std::string& policy = "") {
  const auto serving = CompileServingPolicy(policy);
  EXPECT_TRUE(serving.ok()) << serving.status();
  const sock_fprog filter = {.len = static_cast<uint16_t>(serving->size()),
                             .filter = const_cast<sock_filter*>(serving->data())};
  return RunFiltered({.device_policy = policy, .body = [&] {
                        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                                    &filter) != 0) {
                          return 99;
                        }
                        return body();
                      }});
}

TEST(SeccompPolicyTest, WhatOnlyTheStartNeedsGoesWhenAProcessIsAttached) {
  for (const std::function<int()>& body : std::vector<std::function<int()>>{
           [] { return static_cast<int>(syscall(SYS_uname, nullptr)); },
           [] { return fcntl(0, F_GETFD); },
           [] {
             return static_cast<int>(
                 syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, nullptr));
           }}) {
    const FilteredEnd end = RunServing(body);
    EXPECT_EQ(end.error, "");
    EXPECT_EQ(end.violation, "");
    EXPECT_EQ(end.exit_code, -1);  // killed
  }
}

TEST(SeccompPolicyTest, AllElseStaysWhenAProcessIsAttached) {
  EXPECT_EQ(RunServing([] {
              cpu_set_t processors;
              if (sched_getaffinity(0, sizeof(processors), &processors) != -1) return 1;
              if (errno != EPERM || prctl(PR_SET_NAME, "device") != 0) return 2;
              return 0;
            }).exit_code,
            0);
  // Not allowed at the start either: it is reported.
  EXPECT_TRUE(absl::StartsWith(RunServing([] { return fcntl(0, F_SETFL, 0); }).violation,
                               "system call fcntl("));
}

TEST(SeccompPolicyTest, ADeviceKeepsWhatItsOwnPolicyAllowsThroughout) {
  const auto uname = [] { return syscall(SYS_uname, nullptr) == -1 && errno == EFAULT ? 0 : 1; };
  EXPECT_EQ(RunServing(uname, "uname").exit_code, 0);
  EXPECT_EQ(RunServing(uname, "uname: start").exit_code, -1);
  EXPECT_EQ(
      RunServing([] { return fcntl(0, F_GETFD) < 0 ? 1 : 0; }, "fcntl: arg1 == F_GETFD").exit_code,
      0);
}

TEST(SeccompPolicyTest, AnotherArchitectureKillsTheProcess) {
  const FilteredEnd end = RunFiltered({.body = [] {
    syscall(0x40000000 | SYS_getpid);  // x32
    return 0;
  }});
  EXPECT_EQ(end.violation, "");
  EXPECT_EQ(end.exit_code, -1);
}

TEST(SeccompPolicyTest, ARuleThatAnotherOneCoversGoes) {
  const auto texts_of = [](absl::string_view policy) {
    std::string texts;
    const auto rules = DeviceRules(policy);
    EXPECT_TRUE(rules.ok()) << rules.status();
    if (!rules.ok()) return texts;
    for (const SyscallRule& rule : *rules) {
      if (rule.name == "ioctl") absl::StrAppend(&texts, rule.text, "\n");
    }
    return texts;
  };
  EXPECT_EQ(texts_of("ioctl: arg0 == 1 && arg1 == 2\nioctl: arg1 == 2\nioctl: arg0 == 1"),
            "ioctl: arg1 == 2\nioctl: arg0 == 1\n");
  EXPECT_EQ(texts_of("ioctl: arg1 == 2\nioctl: arg0 == 1 && arg1 == 2"), "ioctl: arg1 == 2\n");
  EXPECT_EQ(texts_of("ioctl: arg1 == 2\nioctl: start && arg0 == 1 && arg1 == 2"),
            "ioctl: arg1 == 2\n");
  EXPECT_EQ(texts_of("ioctl: start && arg0 == 1 && arg1 == 2\nioctl: arg1 == 2"),
            "ioctl: arg1 == 2\n");
  for (const char* contradiction : {"ioctl: start && arg1 == 2\nioctl: arg0 == 1 && arg1 == 2",
                                    "ioctl: arg0 == 1 && arg1 == 2\nioctl: start && arg1 == 2"}) {
    EXPECT_TRUE(
        absl::StrContains(DeviceRules(contradiction).status().message(), "line 2: \"ioctl: "))
        << contradiction;
    EXPECT_FALSE(DeviceRules(contradiction).ok());
  }
}

// A client may have a device restarted with ever new binaries.
TEST(SeccompPolicyTest, CompilingKeepsNoMemory) {
  // The common policy allows it with narrower conditions.
  static constexpr char kOverlaps[] = "fcntl: arg1 == F_SETFL";
  const auto compile = [] {
    for (int i = 0; i < 200; ++i) {
      ASSERT_TRUE(CompileDevicePolicy(kOverlaps).ok());
      ASSERT_TRUE(CompileServingPolicy(kOverlaps).ok());
    }
  };
  compile();
  const size_t before = PrivateBytes();
  compile();
  EXPECT_LE(PrivateBytes(), before + (64 << 10));
}

TEST(SeccompPolicyTest, ADevicesPolicyAddsCalls) {
  ExpectAllowed([] { return memfd_create("x", 0) >= 0 ? 0 : 1; }, "memfd_create: arg1 == 0");
  ExpectViolation(
      "memfd_create", [] { return memfd_create("x", MFD_CLOEXEC); }, "memfd_create: arg1 == 0");
  ExpectAllowed([] { return syscall(SYS_getppid) == -1 && errno == EPERM ? 0 : 1; },
                "getppid: errno EPERM");
  ExpectAllowed([] { return fcntl(0, F_DUPFD_CLOEXEC, 9) >= 0 ? 0 : 1; },
                "fcntl: arg1 == F_DUPFD_CLOEXEC\nread # allowed already\n");
}

void ExpectRefused(absl::string_view policy, absl::string_view message) {
  EXPECT_EQ(DeviceRules(policy).status().message(), message);
}

TEST(SeccompPolicyTest, ADevicesPolicyCannotLeadOutOfTheSandbox) {
  ExpectRefused("read\nclone: arg0 == 1",
                "sandbox policy, line 2: clone: no device may ask for this system call");
  ExpectRefused("execve", "sandbox policy, line 1: execve: no device may ask for this system call");
  ExpectRefused("openat", "sandbox policy, line 1: openat: no device may ask for this system call");
  ExpectRefused(
      "uname: errno EPERM",
      "sandbox policy, line 1: uname: every device needs this system call: it cannot fail");
  ExpectRefused("setsockopt",
                "sandbox policy, line 1: setsockopt: for every device this system call fails");
  ExpectRefused(
      "fcntl",
      "sandbox policy, line 1: fcntl: needs conditions: it is allowed to no device without");
  ExpectRefused("ioctl: arg1 == 3\nioctl",
                "sandbox policy, line 2: \"ioctl\" contradicts \"ioctl: arg1 == 3\"");
}

}  // namespace
}  // namespace bulkhead::vmm
