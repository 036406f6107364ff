#include "vmm/launcher/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/pipe.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/program_file.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kUid = 0x60000001;
constexpr int kLongMs = 30'000;  // never passes in a test that works

std::string ConfinedProgram() {
  return absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"),
                      "/vmm/launcher/testing/confined_program");
}

// The field of /proc/PID/status.
std::string Status(pid_t pid, absl::string_view field) {
  for (const absl::string_view line :
       absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/status")), '\n')) {
    absl::string_view value = line;
    if (absl::ConsumePrefix(&value, field) && absl::ConsumePrefix(&value, ":")) {
      return std::string(absl::StripAsciiWhitespace(value));
    }
  }
  return "";
}

bool HasOwnNamespace(pid_t pid, const char* kind) {
  const std::string link = absl::StrCat("/ns/", kind);
  return std::filesystem::read_symlink(absl::StrCat("/proc/", pid, link)) !=
         std::filesystem::read_symlink("/proc/self" + link);
}

std::string Limit(pid_t pid, absl::string_view name) {
  for (const absl::string_view line :
       absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/limits")), '\n')) {
    absl::string_view values = line;
    if (!absl::ConsumePrefix(&values, name)) continue;
    const std::vector<std::string> columns = absl::StrSplit(values, ' ', absl::SkipEmpty());
    return absl::StrCat(columns[0], " ", columns[1]);
  }
  return "";
}

class LauncherTest : public testing::Test {
 protected:
  void SetUp() override {
#ifdef BULKHEAD_SANITIZED
    GTEST_SKIP()
        << "a program with a sanitizer needs files and system calls that a sandbox forbids";
#endif
    ASSERT_EQ(geteuid(), 0u) << "run as root: it gives processes users";
  }

  struct Program {
    LaunchedProcess launched;
    std::string output;  // its first line
  };
  absl::StatusOr<Program> Run(SandboxLayers layers, std::vector<std::string> args = {}) {
    Pipe output = *CreatePipe();
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    ProcessSpec spec = {.binary = program_,
                        .args = std::move(args),
                        .environment = {},
                        .descriptors = {null.get(), output.write_end.get(), output.write_end.get()},
                        .sandbox = {.layers = layers,
                                    .uid = kUid,
                                    .gid = kUid,
                                    .max_address_space_bytes = 1 << 30,
                                    .filter = *CompileDevicePolicy("")}};
    absl::StatusOr<LaunchedProcess> launched = launcher_->Launch(spec, {});
    if (!launched.ok()) return launched.status();
    output.write_end.reset();
    Program program = {.launched = *std::move(launched), .output = ""};
    pollfd ready[] = {
        {.fd = output.read_end.get(), .events = POLLIN, .revents = 0},
        {.fd = program.launched.violations.ok() ? program.launched.violations.get() : -1,
         .events = POLLIN,
         .revents = 0}};
    if (poll(ready, 2, kLongMs) > 0 && ready[0].revents != 0) {
      char text[256];
      const ssize_t size = read(output.read_end.get(), text, sizeof(text));
      program.output.assign(text, static_cast<size_t>(std::max<ssize_t>(size, 0)));
    }
    return program;
  }
  static void Kill(const LaunchedProcess& launched) {
    launched.process.Signal(SIGKILL).IgnoreError();
    EXPECT_TRUE(launched.process.Wait(absl::Seconds(30)).ok());
  }

  // Open: an ordinary user may not be allowed to look it up.
  const ProgramFile program_ = *ProgramFile::Open(ConfinedProgram());
  std::unique_ptr<Launcher> launcher_ = *Launcher::Start();
};

// Which layers a process is seen to have, from outside and by what it has told.
SandboxLayers LayersSeen(pid_t pid, const std::string& output) {
  const std::pair<SandboxLayer, bool> seen[] = {
      {SandboxLayer::kUser, HasOwnNamespace(pid, "user")},
      {SandboxLayer::kUid,
       absl::StartsWith(Status(pid, "Uid"), absl::StrCat(kUid, "\t", kUid)) &&
           absl::StartsWith(Status(pid, "Gid"), absl::StrCat(kUid, "\t", kUid)) &&
           Status(pid, "Groups").empty()},
      {SandboxLayer::kPid, absl::EndsWith(Status(pid, "NSpid"), "\t1")},
      {SandboxLayer::kMount, HasOwnNamespace(pid, "mnt") &&
                                 std::filesystem::is_empty(absl::StrCat("/proc/", pid, "/root/"))},
      {SandboxLayer::kNet, HasOwnNamespace(pid, "net")},
      {SandboxLayer::kIpc, HasOwnNamespace(pid, "ipc")},
      {SandboxLayer::kUts, HasOwnNamespace(pid, "uts")},
      {SandboxLayer::kCgroup, HasOwnNamespace(pid, "cgroup")},
      {SandboxLayer::kCaps,
       Status(pid, "CapPrm") == "0000000000000000" && Status(pid, "CapEff") == "0000000000000000" &&
           Status(pid, "CapInh") == "0000000000000000" &&
           Status(pid, "CapAmb") == "0000000000000000" &&
           Status(pid, "CapBnd") == "0000000000000000" && Status(pid, "NoNewPrivs") == "1"},
      {SandboxLayer::kRlimits, Limit(pid, "Max open files") == "4096 4096" &&
                                   Limit(pid, "Max processes") == "64 64" &&
                                   Limit(pid, "Max address space") == "1073741824 1073741824"},
      {SandboxLayer::kLandlock, absl::StrContains(output, "Permission denied")},
      {SandboxLayer::kSeccomp, Status(pid, "Seccomp") == "2"}};
  SandboxLayers layers;
  for (const auto& [layer, is_seen] : seen) {
    if (is_seen) layers = layers.With(layer);
  }
  return layers;
}

TEST_F(LauncherTest, ASealedLauncherStartsNothingWithLess) {
  const SandboxLayers all = SandboxLayers::OfDevices();
  ASSERT_TRUE(launcher_->Seal(all.Without(SandboxLayer::kIpc), kUid, 1).ok());
  for (const SandboxLayer missing :
       {SandboxLayer::kUid, SandboxLayer::kMount, SandboxLayer::kCaps, SandboxLayer::kSeccomp}) {
    EXPECT_FALSE(Run(all.Without(missing)).ok()) << Name(missing);
  }
  for (const SandboxLayers enough : {all, all.Without(SandboxLayer::kIpc)}) {
    const absl::StatusOr<Program> program = Run(enough);
    ASSERT_TRUE(program.ok()) << program.status();
    Kill(program->launched);
  }
  // The first seal holds.
  ASSERT_TRUE(launcher_->Seal(SandboxLayers::Off(), 0, ~0u).ok());
  EXPECT_FALSE(Run(all.Without(SandboxLayer::kMount)).ok());
}

TEST_F(LauncherTest, ASealedLauncherGivesNoOtherUsers) {
  ASSERT_TRUE(launcher_->Seal(SandboxLayers::OfDevices(), kUid + 1, 5).ok());
  EXPECT_FALSE(Run(SandboxLayers::OfDevices()).ok());
}

TEST_F(LauncherTest, AProcessIsInAllLayers) {
  const absl::StatusOr<Program> program = Run(SandboxLayers::OfDevices());
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_EQ(program->output, "/: Permission denied\n");
  EXPECT_THAT(LayersSeen(program->launched.process.pid(), program->output).Names(),
              testing::ContainerEq(SandboxLayers::OfDevices().Names()));
  EXPECT_EQ(Limit(program->launched.process.pid(), "Max core file size"), "1 1");
  Kill(program->launched);
}

TEST_F(LauncherTest, EachProcessHasNamespacesOfItsOwn) {
  std::vector<LaunchedProcess> processes;
  std::map<std::string, std::set<std::string>> found;
  for (int i = 0; i < 3; ++i) {
    absl::StatusOr<Program> program = Run(SandboxLayers::OfDevices());
    ASSERT_TRUE(program.ok()) << program.status();
    processes.push_back(std::move(program->launched));
    for (const char* kind : {"user", "pid", "net", "ipc", "uts", "cgroup"}) {
      found[kind].insert(std::filesystem::read_symlink(
          absl::StrCat("/proc/", processes.back().process.pid(), "/ns/", kind)));
    }
  }
  for (const auto& [kind, namespaces] : found) EXPECT_EQ(namespaces.size(), 3u) << kind;
  for (const LaunchedProcess& process : processes) Kill(process);
}

TEST_F(LauncherTest, ANetworkNamespaceIsUsedAgainOnceItsProcessIsDead) {
  std::vector<LaunchedProcess> processes;
  std::vector<std::string> namespaces;
  const auto start = [&] {
    absl::StatusOr<Program> program = Run(SandboxLayers::OfDevices());
    ASSERT_TRUE(program.ok()) << program.status();
    processes.push_back(std::move(program->launched));
    namespaces.push_back(std::filesystem::read_symlink(
        absl::StrCat("/proc/", processes.back().process.pid(), "/ns/net")));
  };
  start();
  start();
  Kill(processes[0]);
  start();
  start();
  EXPECT_EQ(namespaces[2], namespaces[0]);
  EXPECT_EQ(std::set<std::string>(namespaces.begin() + 1, namespaces.end()).size(), 3u);
  for (int i : {1, 2, 3}) Kill(processes[i]);
}

// One layer each is left out.
class WaivedLayerTest : public LauncherTest, public testing::WithParamInterface<SandboxLayer> {};

TEST_P(WaivedLayerTest, IsTheOnlyOneThatAProcessLacks) {
  // Where seccomp denies open(2) it cannot be seen whether Landlock does, and the limit of address
  // space does not depend on any.
  SandboxLayers layers = SandboxLayers::OfDevices().Without(GetParam());
  if (GetParam() == SandboxLayer::kLandlock) layers = layers.Without(SandboxLayer::kSeccomp);
  const absl::StatusOr<Program> program = Run(layers);
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_THAT(LayersSeen(program->launched.process.pid(), program->output).Names(),
              testing::ContainerEq(layers.Names()));
  Kill(program->launched);
}

std::vector<SandboxLayer> AllLayers() {
  std::vector<SandboxLayer> layers;
  for (uint32_t bit = 1; bit <= SandboxLayers::OfDevices().bits(); bit <<= 1) {
    layers.push_back(static_cast<SandboxLayer>(bit));
  }
  return layers;
}

INSTANTIATE_TEST_SUITE_P(Layers, WaivedLayerTest, testing::ValuesIn(AllLayers()),
                         [](const auto& test) { return std::string(Name(test.param)); });

TEST_F(LauncherTest, AViolationIsReportedAndTheThreadStandsStill) {
  const absl::StatusOr<Program> program = Run(SandboxLayers::OfDevices(), {"violate"});
  ASSERT_TRUE(program.ok()) << program.status();
  pollfd violation = {.fd = program->launched.violations.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&violation, 1, kLongMs), 1);
  EXPECT_EQ(program->output, "");
  Kill(program->launched);
}

TEST_F(LauncherTest, TheDeathOfTheLauncherEndsItsProcesses) {
  const absl::StatusOr<Program> program = Run(SandboxLayers::Off());
  ASSERT_TRUE(program.ok()) << program.status();
  ASSERT_EQ(kill(launcher_->pid(), SIGKILL), 0);
  EXPECT_TRUE(program->launched.process.Wait(absl::Seconds(30)).ok());
  pollfd dead = {.fd = launcher_->exit_fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&dead, 1, kLongMs), 1);
  EXPECT_THAT(Run(SandboxLayers::Off()).status().message(), HasSubstr("the launcher is dead"));
}

TEST_F(LauncherTest, ALayerThatTheHostLacksIsNamed) {
  // In a user namespace of its own, which may have no network namespace.
  const auto is_named = [this] {
    const UniqueFd setgroups(open("/proc/self/setgroups", O_WRONLY));
    if (write(setgroups.get(), "deny", 4) != 4) return false;
    for (const char* path : {"/proc/self/uid_map", "/proc/self/gid_map"}) {
      const UniqueFd map(open(path, O_WRONLY));
      if (write(map.get(), "0 0 1", 5) != 5) return false;
    }
    const UniqueFd maximum(open("/proc/sys/user/max_net_namespaces", O_WRONLY));
    if (write(maximum.get(), "0", 1) != 1) return false;
    launcher_ = *Launcher::Start();
    const absl::Status status =
        Run(SandboxLayers::OfDevices().Without(SandboxLayer::kUid)).status();
    const bool names_it = absl::StrContains(status.message(), "lacks the layer \"net\"") &&
                          absl::StrContains(status.message(), "--sandbox-waive=net");
    if (!names_it) fprintf(stderr, "%s\n", status.ToString().c_str());
    const bool runs_without =
        Run(SandboxLayers::OfDevices().Without(SandboxLayer::kUid).Without(SandboxLayer::kNet))
            .ok();
    return names_it && runs_without;
  };
  EXPECT_TRUE(HoldsInChild(is_named, CLONE_NEWUSER));
}

// As the filter that container engines put around what they start.
bool ForbidNamespaces() {
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_ALLOW),
                                                                seccomp_release);
  for (const int call : {SCMP_SYS(unshare), SCMP_SYS(mount), SCMP_SYS(setns)}) {
    if (seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), call, 0) != 0) return false;
  }
  for (const unsigned flag : {CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWIPC,
                              CLONE_NEWUTS, CLONE_NEWCGROUP}) {
    if (seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag)) != 0) {
      return false;
    }
  }
  return seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0) == 0 &&
         seccomp_load(filter.get()) == 0;
}

TEST_F(LauncherTest, InAContainerAllLayersThatItForbidsAreNamed) {
  EXPECT_TRUE(HoldsInChild([this] {
    if (!ForbidNamespaces()) return false;
    launcher_ = *Launcher::Start();
    const std::string message(Run(SandboxLayers::OfDevices()).status().message());
    fprintf(stderr, "%s\n", message.c_str());
    const std::string mark = "--sandbox-waive=";
    const absl::StatusOr<SandboxLayers> missing =
        SandboxLayers::Parse(message.substr(message.find(mark) + mark.size()));
    if (!missing.ok()) return false;
    const absl::StatusOr<Program> program = Run(SandboxLayers::OfDevices().Without(*missing));
    if (!program.ok()) fprintf(stderr, "%s\n", program.status().ToString().c_str());
    return program.ok() && missing->has(SandboxLayer::kUser) && missing->has(SandboxLayer::kNet) &&
           !missing->has(SandboxLayer::kSeccomp) && !missing->has(SandboxLayer::kLandlock);
  }));
}

TEST_F(LauncherTest, AnOrdinaryUserGetsAllLayersButAUserForEachProcess) {
  EXPECT_TRUE(HoldsInChild([this] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return false;
    prctl(PR_SET_DUMPABLE, 1);  // as a process that never was root has it
    launcher_ = *Launcher::Start();
    const SandboxLayers layers = SandboxLayers::OfDevices().Without(SandboxLayer::kUid);
    const absl::StatusOr<Program> program = Run(layers);
    if (!program.ok()) fprintf(stderr, "%s\n", program.status().ToString().c_str());
    if (!program.ok()) return false;
    const SandboxLayers seen = LayersSeen(program->launched.process.pid(), program->output);
    for (const std::string& name : layers.Without(seen).Names()) {
      fprintf(stderr, "lacks %s\n", name.c_str());
    }
    return !launcher_->is_root() && seen == layers;
  }));
}

}  // namespace
}  // namespace bulkhead::vmm
