// A guest that does to its devices what no driver does (kernel_images/baremetal/programs/
// hostile_driver.cc), on a real vmm with real device processes, each in its sandbox. No process may
// end or do what its sandbox forbids, none may grow, the devices must work again once they are
// reset, and a read-only disk must stay as it is. Two disks are those of back ends, one with relay
// and one with lent queues, which end their connections over what the guest has written.
//
// A seed names a run: one VM, so many operations, always the same ones; what the devices do
// meanwhile depends on time. The test does a few; to fuzz,
//   bazel run //integration/hostile_guest:fuzz -- --seconds 600
// goes on with seed after seed for that long, and with --config=asan or --config=ubsan in builds
// with sanitizers, which have fewer layers of the sandbox. --seed N begins with another seed,
// --operations N makes its run longer or shorter.

#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/vsock/host_end.h"
#include "proto/vm_control.pb.h"

ABSL_FLAG(uint64_t, seed, 1, "of the first run; each further one has the next");
ABSL_FLAG(uint64_t, operations, 1'500, "of each run");
ABSL_FLAG(uint64_t, seeds, 3, "how many runs, if --seconds is 0");
ABSL_FLAG(uint64_t, seconds, 0, "begin runs for that long");
ABSL_FLAG(std::vector<std::string>, vmm_flags, {}, "of the vmm, besides those of the test");

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kTimeout = absl::Minutes(5);
constexpr uint64_t kCheckEvery = 500;  // operations
constexpr char kDevices[][8] = {"console", "disk0",   "disk1",   "rng0",    "net0",
                                "vsock0",  "balloon", "example", "relayed", "lent"};
#ifdef BULKHEAD_SANITIZED
constexpr int64_t kMaxGrowthBytes = int64_t{600} << 20;  // freed memory is kept for a while
#else
constexpr int64_t kMaxGrowthBytes = 16 << 20;
#endif

// Without guest RAM, which is shared memory.
int64_t PrivateBytes(pid_t pid) {
  const std::vector<std::string> figures =
      absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/statm")), ' ');
  int64_t resident = 0, shared = 0;
  if (figures.size() < 3 || !absl::SimpleAtoi(figures[1], &resident) ||
      !absl::SimpleAtoi(figures[2], &shared)) {
    return 0;
  }
  return (resident - shared) * sysconf(_SC_PAGESIZE);
}

// 2 MiB in which every 8 bytes hold their own offset.
std::string DiskContents() {
  std::string contents(2 << 20, '\0');
  for (uint64_t offset = 0; offset < contents.size(); offset += sizeof(offset)) {
    contents.replace(offset, sizeof(offset), reinterpret_cast<const char*>(&offset),
                     sizeof(offset));
  }
  return contents;
}

// What the host does with a vsock device: for each of the guest's connections to port 1 it has one
// to port 2, keeps both for a while, sends some bytes and reads none.
class VsockHost {
 public:
  explicit VsockHost(std::string path)
      : path_(std::move(path)), listening_(ListenAt(path_ + "_1")), thread_([this] { Run(); }) {}
  ~VsockHost() {
    shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
    unlink((path_ + "_1").c_str());
  }

 private:
  void Run() {
    constexpr size_t kKept = 16;
    const std::string line = "CONNECT 2\n";
    const std::string bytes(3000, 'x');
    for (;;) {
      UniqueFd accepted(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!accepted.ok()) return;
      UniqueFd client = ConnectTo(path_, SOCK_NONBLOCK);
      send(client.get(), line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      for (UniqueFd* const socket : {&accepted, &client}) {
        send(socket->get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        kept_.push_back(std::move(*socket));
      }
      while (kept_.size() > kKept) kept_.pop_front();
    }
  }

  const std::string path_;
  const UniqueFd listening_;
  std::deque<UniqueFd> kept_;
  std::thread thread_;
};

// Of all devices together, as they count them.
struct Requests {
  double answered = 0;
  double errors = 0;           // of those
  double driver_failures = 0;  // times that a device told its driver to reset it
};

struct RunResult {
  uint64_t operations = 0;
  absl::Duration time;
  Requests requests;
  int64_t vmm_bytes = 0;       // at the end
  int64_t largest_growth = 0;  // of any process, since the first check
};

class HostileGuestTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }

  void Start(uint64_t seed, uint64_t operations) {
    const std::string name = absl::StrCat("hostile-guest-", getpid());
    disk_ = WriteTempFile("hostile_rw.img", DiskContents());
    read_only_disk_ = WriteTempFile("hostile_ro.img", DiskContents());
    for (const std::string kind : {"relayed", "lent"}) ASSERT_NO_FATAL_FAILURE(StartBackEnd(kind));
    std::vector<std::string> flags = absl::GetFlag(FLAGS_vmm_flags);
    flags.insert(
        flags.end(),
        {"--name=" + name, "--no-reboot", "--memory=64M", "--console=stdio",
         absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
         absl::StrCat("--cmdline=run=hostile_driver by_key=1 seed=", seed,
                      " operations=", operations, " check_every=", kCheckEvery),
         "--disk=path=" + disk_, absl::StrCat("--disk=path=", read_only_disk_, ",readonly"),
         absl::StrCat("--vhost-user=type=blk,relay,name=relayed,socket=", folder_, "/relayed"),
         absl::StrCat("--vhost-user=type=blk,name=lent,socket=", folder_, "/lent"), "--rng",
         "--balloon", "--net=tap", absl::StrCat("--vsock=cid=42,socket=", vsock_),
         absl::StrCat("--device=name=example,binary=", DataFile("devices/example/example"))});
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    vsock_host_.emplace(vsock_);
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
  }

  // Of a read-only disk.
  void StartBackEnd(const std::string& kind) {
    const std::string socket = absl::StrCat(folder_, "/", kind);
    unlink(socket.c_str());
    absl::StatusOr<std::unique_ptr<ChildProcess>> started =
        ChildProcess::Start({DataFile("devices/vhost_user/testing/block_back_end"), socket,
                             read_only_disk_, "readonly"},
                            {});
    ASSERT_TRUE(started.ok()) << started.status();
    back_ends_[kind] = *std::move(started);
    const absl::Time deadline = absl::Now() + kTimeout;
    while (access(socket.c_str(), F_OK) != 0 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(10));
    }
  }

  // The guest's next line of that kind, which its own noise may surround.
  std::string NextReport(const std::string& kind) {
    const absl::Status begins =
        vm_->WaitForOutput(absl::StrCat("\nhostile: ", kind), kTimeout).status();
    EXPECT_TRUE(begins.ok()) << begins << "\n" << vm_->log();
    if (!begins.ok()) return "";
    return vm_->WaitForOutput("\r\n", kTimeout).value_or("");
  }

  std::map<std::string, pid_t> Processes() {
    std::map<std::string, pid_t> processes = {{"vmm", vm_->pid()}};
    for (const char* device : kDevices) processes[device] = client_->PidOf(device);
    return processes;
  }
  static std::map<std::string, int64_t> Memory(const std::map<std::string, pid_t>& processes) {
    std::map<std::string, int64_t> memory;
    for (const auto& [name, pid] : processes) memory[name] = PrivateBytes(pid);
    return memory;
  }

  void ExpectNothingHappened() {
    for (const char* device : kDevices) {
      const absl::StatusOr<v1::Device> state = client_->GetDevice(device);
      ASSERT_TRUE(state.ok()) << state.status();
      EXPECT_EQ(state->state(), v1::Device::RUNNING) << state->DebugString();
      EXPECT_EQ(state->generation(), 1u) << state->DebugString() << vm_->log();
      EXPECT_EQ(state->sandbox_violations(), 0u) << vm_->log();
    }
  }

  // Waits until they are more than `expected`: on a busy host a device does not tell its metrics in
  // the time that the vmm gives it, and is asked again at the next call.
  Requests CountRequests(uint64_t expected) {
    const absl::Time deadline = absl::Now() + kTimeout;
    Requests requests;
    while ((requests = ReportedRequests()).answered <= static_cast<double>(expected) &&
           !HasFailure() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(100));
    }
    return requests;
  }
  Requests ReportedRequests() {
    Requests requests;
    const absl::StatusOr<v1::VmMetrics> metrics = client_->GetMetrics();
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    if (!metrics.ok()) return requests;
    for (const v1::MetricFamily& family : metrics->families()) {
      double sum = 0;
      for (const v1::Sample& sample : family.samples()) sum += sample.value();
      for (const char* name : {"_reads_total", "_writes_total", "_flushes_total", "_discards_total",
                               "_write_zeroes_total", "_requests_total"}) {
        if (absl::EndsWith(family.name(), name)) requests.answered += sum;
      }
      if (absl::EndsWith(family.name(), "_errors_total")) requests.errors += sum;
      if (absl::EndsWith(family.name(), "_driver_failures_total")) requests.driver_failures += sum;
    }
    return requests;
  }

  RunResult Drive(uint64_t seed, uint64_t operations) {
    SCOPED_TRACE(absl::StrCat("--seed=", seed, " --operations=", operations));
    RunResult run;
    Start(seed, operations);
    if (HasFatalFailure()) return run;
    NextReport("seed");
    const absl::Time begin = absl::Now();
    std::map<std::string, pid_t> processes;
    std::map<std::string, int64_t> first;
    while (run.operations < operations && !HasFailure()) {
      EXPECT_TRUE(absl::SimpleAtoi(NextReport("operations "), &run.operations));
      if (!first.empty() || HasFailure()) continue;
      processes = Processes();
      first = Memory(processes);
    }
    run.time = absl::Now() - begin;
    if (HasFailure()) return run;
    NextReport("ends");
    ExpectNothingHappened();
    EXPECT_EQ(Processes(), processes);
    for (const auto& [name, bytes] : Memory(processes)) {
      EXPECT_LE(bytes, first[name] + kMaxGrowthBytes) << name;
      run.largest_growth = std::max(run.largest_growth, bytes - first[name]);
    }
    run.requests = CountRequests(operations / 10);
    run.vmm_bytes = PrivateBytes(vm_->pid());

    vsock_host_.reset();
    EXPECT_TRUE(vm_->Type("q").ok());
    EXPECT_TRUE(vm_->WaitForOutput("BULKHEAD-PASS", kTimeout).ok()) << vm_->log();
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    EXPECT_EQ(exit.ok() ? exit->ToString() : exit.status().ToString(), "exit code 0") << vm_->log();
    EXPECT_THAT(vm_->log(), Not(HasSubstr("ERROR: AddressSanitizer")));
    EXPECT_THAT(vm_->log(), Not(HasSubstr("runtime error: ")));
    EXPECT_EQ(ReadFile(read_only_disk_), DiskContents()) << "the guest wrote to a read-only disk";
    return run;
  }

  const std::string folder_ = getenv("BULKHEAD_RUNTIME_DIR");
  const std::string vsock_ = folder_ + "/vsock";
  std::string disk_, read_only_disk_;
  std::map<std::string, std::unique_ptr<ChildProcess>> back_ends_;
  std::unique_ptr<VmProcess> vm_;
  std::optional<VsockHost> vsock_host_;
  std::unique_ptr<VmClient> client_;
};

TEST_F(HostileGuestTest, NoGuestHarmsVmmOrDeviceProcesses) {
  const absl::Duration time = absl::Seconds(absl::GetFlag(FLAGS_seconds));
  const uint64_t first = absl::GetFlag(FLAGS_seed), operations = absl::GetFlag(FLAGS_operations);
  const absl::Time end = absl::Now() + time;
  uint64_t sum = 0;
  double requests = 0;
  absl::Duration busy;
  std::cout << "      seed  operations  per second  requests   errors  resets wanted  vmm KiB  "
               "most growth KiB\n";
  uint64_t seed = first;
  for (;
       time > absl::ZeroDuration() ? absl::Now() < end : seed - first < absl::GetFlag(FLAGS_seeds);
       ++seed) {
    const RunResult run = Drive(seed, operations);
    std::cout << absl::StrFormat("%10d  %10d  %10.0f  %8.0f %8.0f  %13.0f  %7d  %15d\n", seed,
                                 run.operations, run.operations / absl::ToDoubleSeconds(run.time),
                                 run.requests.answered, run.requests.errors,
                                 run.requests.driver_failures, run.vmm_bytes >> 10,
                                 run.largest_growth >> 10)
              << std::flush;
    if (HasFailure()) {
      std::cout << "again with: --seed=" << seed << " --operations=" << operations
                << " --seeds=1\nthe last of the console: "
                << vm_->output().substr(vm_->output().size() -
                                        std::min<size_t>(vm_->output().size(), 400))
                << "\n";
      return;
    }
    EXPECT_GT(run.requests.answered, operations / 10) << "the devices had little to do";
    sum += run.operations;
    requests += run.requests.answered;
    busy += run.time;
  }
  std::cout << absl::StrFormat(
      "%d seeds, %d operations in %.0f s: %.0f per second; %.0f requests\n", seed - first, sum,
      absl::ToDoubleSeconds(busy), sum / absl::ToDoubleSeconds(busy), requests);
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  // The folder of `bazel run` is too long for a socket's path.
  char folder[] = "/tmp/hostile-XXXXXX";
  if (mkdtemp(folder) != nullptr) setenv("BULKHEAD_RUNTIME_DIR", folder, /*overwrite=*/1);
  testing::InitGoogleTest(&argc, argv);
  absl::ParseCommandLine(argc, argv);
  const int result = RUN_ALL_TESTS();
  std::filesystem::remove_all(folder);
  return result;
}
