// What an attacker can do who has taken over a device process: from inside each real device
// process, in its final state, the test tries all of attempts.h, and each attempt is refused. Then
// once more without the layer "seccomp": the other layers must still refuse what leads out of the
// process. At the end it prints a table: which layer refused what.
//
// The argument names further layers to do without in the second pass ("uid"). It fails then, and
// so shows what the layer is for.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/escape/attempts.h"
#include "integration/escape/surroundings.h"
#include "integration/escape/taken_over_process.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "vmm/sandbox/policy_note.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using vmm::ArgumentCondition;
using vmm::SyscallRule;

constexpr absl::Duration kTimeout = absl::Seconds(30);
constexpr size_t kDiskBytes = 1 << 20;
constexpr char kOtherContents[] = "everybody may write this";
constexpr int kX32Bit = 0x40000000;

struct Device {
  const char* name;
  const char* binary;
};
constexpr Device kDevices[] = {{"console", "uart16550"},        {"disk", "virtio_blk"},
                               {"readonly-disk", "virtio_blk"}, {"rng", "virtio_rng"},
                               {"example", "example"},          {"net", "virtio_net"},
                               {"vsock", "virtio_vsock"},       {"balloon", "virtio_balloon"}};

std::string BinaryOf(const Device& device) {
  return DataFile(absl::StrCat("devices/", device.binary, "/", device.binary));
}

std::vector<SyscallRule> RulesOf(const Device& device) {
  const UniqueFd binary(open(BinaryOf(device).c_str(), O_RDONLY | O_CLOEXEC));
  const absl::StatusOr<std::string> policy = vmm::ReadPolicyNote(binary.get());
  EXPECT_TRUE(policy.ok()) << policy.status();
  absl::StatusOr<std::vector<SyscallRule>> rules = vmm::DeviceRules(*policy);
  EXPECT_TRUE(rules.ok()) << rules.status();
  return *std::move(rules);
}

std::string ErrorName(int64_t result) {
  const char* const name = strerrorname_np(static_cast<int>(-result));
  return name == nullptr ? absl::StrCat("error ", -result) : name;
}

// What the seccomp filters do about a system call.
enum class Verdict { kAllow, kFail, kReport, kKill };

// One system call that was made, and its result.
struct Made {
  int number = 0;
  std::array<uint64_t, 6> arguments = {};
  Verdict verdict = Verdict::kAllow;
  int error = 0;  // of kFail
  int64_t result = -ENOENT;
};

// The filters of one device.
struct Filters {
  std::vector<SyscallRule> rules;
  bool vmms = true;     // the one that the vmm has installed
  bool device = false;  // one that the device has added (devices/virtio_blk/forbid_rings.h)

  Verdict Judge(const Made& made, int& error) const {
    if (device && (made.number == SYS_io_uring_setup || made.number == SYS_io_uring_register)) {
      return Verdict::kKill;
    }
    if (!vmms) return Verdict::kAllow;
    if ((made.number & kX32Bit) != 0) return Verdict::kKill;
    for (const SyscallRule& rule : rules) {
      if (rule.number != made.number) continue;
      if (!std::all_of(rule.conditions.begin(), rule.conditions.end(),
                       [&](const ArgumentCondition& condition) {
                         return (made.arguments[condition.argument] & condition.mask) ==
                                condition.expected;
                       })) {
        continue;
      }
      error = rule.start ? rule.later_error : rule.error;
      if (error != 0) return Verdict::kFail;
      return rule.start ? Verdict::kKill : Verdict::kAllow;
    }
    return Verdict::kReport;
  }
};

std::string NameOf(int number) {
  char* const known = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);
  const std::string name = known != nullptr ? known : absl::StrCat("number ", number);
  free(known);
  return name;
}

uint64_t Resolve(TakenOverProcess& process, const Argument& argument, int descriptor,
                 const std::vector<int64_t>& results) {
  switch (argument.kind) {
    case Argument::Kind::kValue:
      return argument.value;
    case Argument::Kind::kResult:
      return static_cast<uint64_t>(results[argument.value]);
    case Argument::Kind::kDescriptor:
      return static_cast<uint64_t>(descriptor);
    case Argument::Kind::kAddress:
      break;
  }
  std::string bytes = argument.bytes;
  for (size_t i = 0; i < argument.offsets.size(); ++i) {
    const uint64_t address = Resolve(process, argument.targets[i], descriptor, results);
    memcpy(bytes.data() + argument.offsets[i], &address, sizeof(address));
  }
  return process.Put(bytes);
}

// Makes the attempt. The result: the last system call of it.
Made Make(TakenOverProcess& process, const Attempt& attempt, const Filters& filters) {
  Made made;
  for (const int descriptor : attempt.descriptors) {
    process.ForgetBytes();
    std::vector<int64_t> results;
    for (const SystemCall& call : attempt.calls) {
      made = {.number = call.number};
      for (size_t i = 0; i < call.arguments.size(); ++i) {
        made.arguments[i] = Resolve(process, call.arguments[i], descriptor, results);
      }
      made.verdict = filters.Judge(made, made.error);
      if (made.verdict == Verdict::kReport || made.verdict == Verdict::kKill) {
        // The vmm can reap it at once if nobody traces it.
        process.CallAndLetGo(made.number, made.arguments);
        made.result = TakenOverProcess::kDied;
        return made;
      }
      made.result = process.CallWith(made.number, made.arguments);
      if (attempt.passed != 0 && made.result == -attempt.passed) made.result = 0;
      if (made.result < 0) break;
      results.push_back(made.result);
    }
    if (made.result >= 0 || made.result == TakenOverProcess::kDied) break;
  }
  return made;
}

// What was refused by which layer, for each attempt in the order of the table.
class Table {
 public:
  void Add(const std::string& attempt, const Device& device, bool seccomp,
           const std::string& layer) {
    if (rows_.count(attempt) == 0) order_.push_back(attempt);
    rows_[attempt].layers[seccomp][layer].push_back(device.name);
  }
  void Print() const {
    std::cout << absl::StrFormat("%-44s %-34s %s\n", "attempt", "refused by", "without seccomp");
    for (const std::string& attempt : order_) {
      const Row& row = rows_.at(attempt);
      std::cout << absl::StrFormat("%-44s %-34s %s\n", attempt, Text(row, true), Text(row, false));
    }
  }

 private:
  struct Row {
    std::map<std::string, std::vector<std::string>> layers[2];  // [with seccomp]
  };
  static std::string Text(const Row& row, bool seccomp) {
    const auto& layers = row.layers[seccomp];
    if (layers.size() == 1) return layers.begin()->first;
    return absl::StrJoin(layers, "; ", [](std::string* out, const auto& each) {
      absl::StrAppend(out, each.first, " [", absl::StrJoin(each.second, ", "), "]");
    });
  }

  std::map<std::string, Row> rows_;
  std::vector<std::string> order_;
};
Table table;

// ",uid"
std::string also_waived;

class EscapeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (geteuid() != 0) return;
    ASSERT_EQ(EnterNetworkNamespace(), "");
    ASSERT_EQ(system("ip link set lo up"), 0);  // the host of the attempts, too
  }
  void SetUp() override {
    if (vmm::SandboxLayers::InThisBuild() != vmm::SandboxLayers::All()) {
      GTEST_SKIP() << "this build has no complete sandbox";
    }
    if (geteuid() != 0) GTEST_SKIP() << "needs root, for ptrace(2)";
    disk_ = WriteTempFile(absl::StrCat("escape-", getpid(), ".disk"), std::string(kDiskBytes, 'd'));
    readonly_disk_ =
        WriteTempFile(absl::StrCat("escape-", getpid(), ".readonly"), std::string(kDiskBytes, 'r'));
    ASSERT_EQ(chmod(disk_.c_str(), 0600), 0);
    ASSERT_EQ(chmod(readonly_disk_.c_str(), 0600), 0);
    around_.other_disk = WriteTempFile(absl::StrCat("escape-", getpid(), ".other"), kOtherContents);
    ASSERT_EQ(chmod(around_.other_disk.c_str(), 0666), 0);
    ASSERT_EQ(chmod(testing::TempDir().c_str(), 0755), 0);
    around_.new_file = TempPath(absl::StrCat("escape-", getpid(), ".new"));
    around_.refuses_descriptors = KernelRefusesDescriptors();
    host_.Describe(around_);
  }

  void StartVm(const std::vector<std::string>& more) {
    const std::string name = absl::StrCat("escape-", getpid());
    std::string config =
        absl::StrCat("name: '", name, "' memory: '64M' kernel { path: '",
                     DataFile("kernel_images/baremetal/guest.elf"), "' cmdline: 'run=idle' }\n");
    for (const Device& device : kDevices) {
      std::string resource;
      if (absl::EqualsIgnoreCase(device.name, "console")) {
        resource = "name: 'console' console { standard_streams: true }";
      } else if (absl::StrContains(device.name, "disk")) {
        resource = absl::StrCat("name: 'disk' file { path: '", PathOf(device),
                                "' read_only: ", IsReadOnly(device) ? "true" : "false", " }");
      } else if (absl::EqualsIgnoreCase(device.name, "net")) {
        resource = "name: 'tap' tap { }";
      } else if (absl::EqualsIgnoreCase(device.name, "balloon")) {
        resource = "name: 'target' balloon { }";
      } else if (absl::EqualsIgnoreCase(device.name, "vsock")) {
        resource = absl::StrCat("name: 'host' vsock { socket: '", TempPath("escape.vsock"), "' }");
      }
      absl::StrAppend(&config, "devices { name: '", device.name, "' binary: '", BinaryOf(device),
                      "' ", absl::EqualsIgnoreCase(device.name, "vsock") ? "arg: '--cid=42' " : "",
                      "restart { max_crashes: -1 min_backoff: '0' } heartbeat { interval: '0' } ",
                      resource.empty() ? "" : absl::StrCat("resources { ", resource, " }"), " }\n");
    }
    std::vector<std::string> flags = {absl::StrCat(
        "--config=", WriteTempFile(absl::StrCat("escape-", getpid(), ".textproto"), config))};
    flags.insert(flags.end(), more.begin(), more.end());
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("idle", kTimeout).ok()) << vm_->log();
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
    around_.vmm = vm_->pid();
    around_.launcher = vm_->HelperPid("vmm-launcher");
    around_.init = vm_->HelperPid("vmm-init");
    around_.control_socket = ControlSocketOf(name);
    // A guest that does nothing takes time of a processor.
    ASSERT_TRUE(client_->Pause().ok());
  }
  void EndVm() {
    ASSERT_TRUE(client_->GetStatus().ok());
    ASSERT_TRUE(vm_->Signal(SIGTERM).ok());
    EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 6") << vm_->log();
  }

  // What the attempts were about is as it was.
  void CheckHost() {
    EXPECT_EQ(ReadFile(around_.other_disk), kOtherContents);
    EXPECT_NE(access(around_.new_file.c_str(), F_OK), 0);
    EXPECT_EQ(ReadFile(readonly_disk_), std::string(kDiskBytes, 'r'));
    EXPECT_EQ(ReadFile(disk_).substr(0, kDiskBytes), std::string(kDiskBytes, 'd'));
    // A process can give up its own lock of the disk, but not the vmm's.
    const UniqueFd disk(open(disk_.c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1, .l_pid = 0};
    EXPECT_EQ(fcntl(disk.get(), F_OFD_GETLK, &lock), 0);
    EXPECT_EQ(lock.l_type, F_WRLCK);
  }

  static bool IsReadOnly(const Device& device) { return absl::StartsWith(device.name, "readonly"); }
  std::string PathOf(const Device& device) const {
    if (!absl::StrContains(device.name, "disk")) return "";
    return std::filesystem::canonical(IsReadOnly(device) ? readonly_disk_ : disk_);
  }
  // Takes over the process that serves the device.
  std::unique_ptr<TakenOverProcess> TakeOver(const Device& device) {
    absl::StatusOr<std::unique_ptr<TakenOverProcess>> process =
        TakenOverProcess::TakeOver(client_->PidOf(device.name));
    EXPECT_TRUE(process.ok()) << device.name << ": " << process.status();
    return process.ok() ? *std::move(process) : nullptr;
  }
  Surroundings AroundOf(const Device& device, pid_t pid) const {
    Surroundings around = around_;
    around.disk_is_read_only = IsReadOnly(device);
    around.disk_bytes = kDiskBytes;
    DescribeProcess(pid, PathOf(device), around);
    return around;
  }
  bool AwaitLog(const std::string& text) {
    const bool found = vm_->WaitForLog(text, kTimeout).ok();
    EXPECT_TRUE(found) << "no line has: " << text << "\n"
                       << vm_->log().substr(vm_->log().size() -
                                            std::min<size_t>(vm_->log().size(), 2000));
    return found;
  }
  void TryAll(const Device& device, bool seccomp);
  // Notes how the attempt ended. False: the test cannot go on.
  bool Record(const Device& device, bool seccomp, const Attempt& attempt, const Made& made,
              const TakenOverProcess& process);

  const Host host_;
  std::string disk_, readonly_disk_;
  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
  Surroundings around_;
};

bool EscapeTest::Record(const Device& device, bool seccomp, const Attempt& attempt,
                        const Made& made, const TakenOverProcess& process) {
  const std::string what = absl::StrCat(device.name, ": ", attempt.name, ": ");
  const std::string dead =
      absl::StrCat("device '", device.name, "' (process ", process.pid(), "): ");
  const auto add = [&](const std::string& layer) {
    table.Add(attempt.name, device, seccomp, layer);
  };
  const bool may_succeed = attempt.behind == kInside || attempt.behind == kSeccompAlone;
  switch (made.verdict) {
    case Verdict::kReport:
      add("seccomp: killed, reported");
      return AwaitLog(absl::StrCat(dead, "killed, because it violated its sandbox: system call ",
                                   NameOf(made.number), "("));
    case Verdict::kKill:
      add("seccomp: killed");
      return AwaitLog(absl::StrCat(dead, "killed by signal 31"));
    case Verdict::kFail:
      EXPECT_EQ(made.result, -made.error) << what;
      add(absl::StrCat("seccomp: ", ErrorName(-made.error)));
      return true;
    case Verdict::kAllow:
      break;
  }
  if (process.end().has_value()) {
    ADD_FAILURE() << what << "the process died, wait status " << *process.end();
    return false;
  }
  if (made.result >= 0) {
    const bool may = !seccomp && may_succeed;
    EXPECT_TRUE(may) << what << "IT SUCCEEDED: " << made.result;
    add(may ? attempt.behind : "NOTHING");
  } else {
    add(absl::StrCat(may_succeed ? "refused" : attempt.behind, " (", ErrorName(made.result), ")"));
  }
  return true;
}

void EscapeTest::TryAll(const Device& device, bool seccomp) {
  Filters filters = {.rules = RulesOf(device), .vmms = seccomp};
  filters.device =
      std::any_of(filters.rules.begin(), filters.rules.end(),
                  [](const SyscallRule& rule) { return rule.number == SYS_io_uring_setup; });
  const Device& other = kDevices[absl::EqualsIgnoreCase(device.name, "rng") ? 4 : 3];
  around_.sibling = client_->PidOf(other.name);
  std::unique_ptr<TakenOverProcess> process = TakeOver(device);
  if (process == nullptr) return;
  std::vector<Attempt> attempts = Attempts(AroundOf(device, process->pid()));
  for (size_t i = 0; i < attempts.size(); ++i) {
    if (process == nullptr) {
      if (!AwaitLog(absl::StrCat("device '", device.name, "' serves again"))) return;
      process = TakeOver(device);
      if (process == nullptr) return;
      attempts = Attempts(AroundOf(device, process->pid()));
    }
    const Attempt& attempt = attempts[i];
    if (attempt.descriptors.empty()) {
      table.Add(attempt.name, device, seccomp, "it has no such descriptor");
      continue;
    }
    const Made made = Make(*process, attempt, filters);
    if (!Record(device, seccomp, attempt, made, *process)) return;
    // What it changed, or has open now, is not for the next attempt.
    if (made.result >= 0 || made.result == TakenOverProcess::kDied || attempt.calls.size() > 1) {
      process.reset();
    }
  }
}

TEST_F(EscapeTest, EachAttemptIsRefused) {
  ASSERT_NO_FATAL_FAILURE(StartVm({}));
  for (const Device& device : kDevices) TryAll(device, /*seccomp=*/true);
  CheckHost();
  EndVm();
}

TEST_F(EscapeTest, WithoutSeccompTheOtherLayersKeepTheProcessIn) {
  ASSERT_NO_FATAL_FAILURE(StartVm({absl::StrCat("--sandbox-waive=seccomp", also_waived)}));
  for (const Device& device : kDevices) TryAll(device, /*seccomp=*/false);
  CheckHost();
  EndVm();
}

// Their numbers mean other system calls.
TEST_F(EscapeTest, ASystemCallOf32BitProgramsKills) {
  constexpr int kGetPidOf32Bit = 20;
  ASSERT_NO_FATAL_FAILURE(StartVm({}));
  for (const Device& device : kDevices) {
    const std::unique_ptr<TakenOverProcess> process = TakeOver(device);
    ASSERT_NE(process, nullptr);
    EXPECT_EQ(process->Call32Bit(kGetPidOf32Bit), TakenOverProcess::kDied) << device.name;
    ASSERT_TRUE(process->end().has_value());
    EXPECT_EQ(WTERMSIG(*process->end()), SIGSYS);
  }
  EndVm();
}

TEST_F(EscapeTest, AProcessHasOnlyTheDescriptorsAndMemoryThatItNeeds) {
  ASSERT_NO_FATAL_FAILURE(StartVm({}));
  for (const Device& device : kDevices) {
    const pid_t pid = client_->PidOf(device.name);
    for (const Descriptor& each : DescriptorsOf(pid)) {
      const bool is_known =
          each.what == "/dev/null" || absl::StartsWith(each.what, "pipe:") ||
          absl::StartsWith(each.what, "socket:") || each.what == "anon_inode:[eventfd]" ||
          each.what == "anon_inode:[eventpoll]" || each.what == "anon_inode:[timerfd]" ||
          each.what == "anon_inode:[io_uring]" || each.what == PathOf(device) ||
          (each.what == "/dev/net/tun" && absl::EqualsIgnoreCase(device.name, "net"));
      EXPECT_TRUE(is_known) << device.name << " has " << each.what;
      if (each.what == PathOf(device)) {
        EXPECT_EQ(each.can_write, !IsReadOnly(device));
      }
    }
    std::istringstream maps(ReadFile(absl::StrCat("/proc/", pid, "/maps")));
    for (std::string line; std::getline(maps, line);) {
      const std::string protection = line.substr(line.find(' ') + 1, 4);
      EXPECT_FALSE(absl::StrContains(protection, 'w') && absl::StrContains(protection, 'x'))
          << device.name << ": " << line;
      if (absl::StrContains(line, "memfd:bulkhead-requests")) {
        EXPECT_EQ(protection, "r--s");
      }
    }
  }
  EndVm();
}

class ForkTest : public EscapeTest, public testing::WithParamInterface<const char*> {};

// A process that survives the device could serve the guest in its successor's place.
TEST_P(ForkTest, WhatADeviceHasForkedIsDeadBeforeItsSuccessorServes) {
  const Device& device = kDevices[3];
  ASSERT_NO_FATAL_FAILURE(StartVm({GetParam()}));
  for (int i = 0; i < 5; ++i) {
    std::unique_ptr<TakenOverProcess> process = TakeOver(device);
    ASSERT_NE(process, nullptr);
    process->keep_children();
    ASSERT_GT(process->Call(SYS_fork), 0);
    const UniqueFd forked(static_cast<int>(syscall(SYS_pidfd_open, process->child(), 0)));
    ASSERT_TRUE(forked.ok());
    pollfd dead = {.fd = forked.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&dead, 1, 0), 0);
    const pid_t old = process->pid();
    process.reset();
    // As soon as the vmm says that another process serves.
    const absl::Time deadline = absl::Now() + kTimeout;
    absl::StatusOr<v1::Device> now = client_->GetDevice(device.name);
    while (now.ok() && (now->state() != v1::Device::RUNNING || now->pid() == old) &&
           absl::Now() < deadline) {
      now = client_->GetDevice(device.name);
    }
    ASSERT_TRUE(now.ok()) << now.status();
    EXPECT_EQ(poll(&dead, 1, 0), 1);
    EXPECT_NE(now->pid(), old);
  }
  EndVm();
}

INSTANTIATE_TEST_SUITE_P(, ForkTest, testing::Values("--sandbox-waive=seccomp", "--sandbox=off"));

void PrintAllowed() {
  for (const Device& device : kDevices) {
    std::set<int> allowed;
    for (const SyscallRule& rule : RulesOf(device)) {
      if (rule.error == 0 && !rule.start) allowed.insert(rule.number);
    }
    std::cout << device.binary << ": " << allowed.size() << " system calls are allowed\n";
  }
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) bulkhead::integration::also_waived = absl::StrCat(",", argv[1]);
  const int result = RUN_ALL_TESTS();
  bulkhead::integration::table.Print();
  bulkhead::integration::PrintAllowed();
  return result;
}
