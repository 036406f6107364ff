// A device in another process, as the rest of the vmm meets it: what it is, its descriptors, and
// accesses, also to one that has died or hangs. What follows from that is supervisor_test.cc's.
#include "vmm/remote_device/remote_device.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/testing/streams.h"
#include "base/unique_fd.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/host_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/process_monitor.h"
#include "vmm/supervisor/device_supervisor.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;
using ::testing::HasSubstr;

constexpr uint64_t kAllOnes32 = 0xffffffff;

size_t CountDescriptors(pid_t process = getpid()) {
  std::error_code ignored;  // it may have ended
  const std::filesystem::directory_iterator all(absl::StrCat("/proc/", process, "/fd"), ignored);
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// A device and its supervisor, which does not replace the process when it ends.
class Device {
 public:
  explicit Device(std::unique_ptr<DeviceSupervisor> supervisor)
      : supervisor_(std::move(supervisor)) {}
  RemoteDevice* operator->() const { return &supervisor_->device(); }
  RemoteDevice& operator*() const { return supervisor_->device(); }
  DeviceSupervisor& supervisor() const { return *supervisor_; }
  pid_t pid() const { return supervisor_->Describe().pid(); }
  void Stop() const {
    supervisor_->Shutdown();
    supervisor_->AwaitShutdown();
  }

 private:
  std::unique_ptr<DeviceSupervisor> supervisor_;
};

class RemoteDeviceTest : public SupervisedTest {
 protected:
  absl::StatusOr<Device> Start(DeviceSpec spec, const SupervisorOptions& options) {
    spec.restart.policy = RestartSpec::Policy::kNever;
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> supervisor =
        DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
    if (!supervisor.ok()) return supervisor.status();
    return Device(*std::move(supervisor));
  }
  absl::StatusOr<Device> Start(DeviceSpec spec) { return Start(std::move(spec), Options()); }
  absl::StatusOr<Device> Start(const std::string& misbehaviour) {
    return Start(Spec(misbehaviour));
  }

  std::optional<v1::DeviceProcessEnded> Failure() {
    for (const v1::Event& event : Events()) {
      if (event.has_device_ended() && !event.device_ended().expected()) {
        return event.device_ended();
      }
    }
    return std::nullopt;
  }
  std::optional<v1::DeviceProcessEnded> WaitForFailure(const Device& device) {
    WaitForState(device.supervisor(), v1::Device::FAILED);
    return Failure();
  }
};

TEST_F(RemoteDeviceTest, ServesReadsAndWritesOfSeveralWaiters) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->description().model, "misbehaving");
  (*device)->PostWrite(0, 0, 0, 4, 0x12345678);
  EXPECT_EQ((*device)->Read(1, 0, 0, 4), 0x12345678u);
  (*device)->WriteAndWait(1, 0, 0, 8, 0x1122334455667788);
  EXPECT_EQ((*device)->Read(2, 0, 0, 8), 0x1122334455667788u);
  EXPECT_EQ((*device)->Read(2, 0, 0, 1), 0x88u);
}

TEST_F(RemoteDeviceTest, AnswersAccessesOutsideTheRegionsWithAllOnes) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->Read(0, 0, 4093, 4), kAllOnes32);
  EXPECT_EQ((*device)->Read(0, 3, 0, 4), kAllOnes32);
  (*device)->PostWrite(0, 0, 4096, 1, 1);
  (*device)->WriteAndWait(0, 255, ~uint64_t{0}, 8, 1);
  EXPECT_EQ((*device)->Read(0, 0, regs::kWriteCount, 8), 0u);
}

// Reads a register until it has the value, for five seconds at most.
bool ReadsUntil(RemoteDevice& device, uint64_t offset, uint64_t value) {
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (device.Read(0, 0, offset, 8) != value) {
    if (absl::Now() > deadline) return false;
  }
  return true;
}

TEST_F(RemoteDeviceTest, DoorbellsReachTheDevice) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(ReadsUntil(**device, regs::kDoorbellCount, 1));  // the look at attachment
  (*device)->endpoints().doorbells()[0].Signal();
  EXPECT_TRUE(ReadsUntil(**device, regs::kDoorbellCount, 2));
}

TEST_F(RemoteDeviceTest, InterruptsComeOverTheEventfdsThatTheFunctionStateAllows) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  const EventFd& vector1 = (*device)->endpoints().msix_vectors()[1];
  (*device)->WriteAndWait(0, 0, regs::kSignalMsix, 4, 1);
  EXPECT_FALSE(vector1.IsPending());  // MSI-X is disabled
  (*device)->SetFunctionState(0, {.bus_master = true, .msix_enabled = true});
  (*device)->WriteAndWait(0, 0, regs::kSignalMsix, 4, 1);
  EXPECT_TRUE(vector1.IsPending());
  (*device)->SetFunctionState(0, {.bus_master = true, .msix_enabled = false});
  (*device)->WriteAndWait(0, 0, regs::kSetIntx, 4, 1);
  EXPECT_TRUE(IsReadable((*device)->endpoints().intx_fd(), absl::ZeroDuration()));
  (*device)->SetFunctionState(0, {.bus_master = true, .intx_disabled = true});
  (*device)->WriteAndWait(0, 0, regs::kSetIntx, 4, 0);
  EXPECT_FALSE(IsReadable((*device)->endpoints().intx_fd(), absl::ZeroDuration()));
}

TEST_F(RemoteDeviceTest, TheDeviceSeesGuestMemory) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  ASSERT_TRUE(ram_.memory().WriteObject(0x1238, uint64_t{0xfeedfacecafebeef}));
  (*device)->PostWrite(0, 0, regs::kCopyFromGuest, 8, 0x1238);
  EXPECT_EQ((*device)->Read(0, 0, 0, 8), 0xfeedfacecafebeefu);
}

TEST_F(RemoteDeviceTest, TheProcessInheritsNoDescriptorAndNoEnvironment) {
  const int leaked = open("/dev/zero", O_RDONLY);  // not close-on-exec
  setenv("BULKHEAD_TEST_SECRET", "1", 1);
  auto device = Start("");
  close(leaked);
  ASSERT_TRUE(device.ok()) << device.status();
  const std::string proc = absl::StrCat("/proc/", device->pid());
  EXPECT_THAT(ReadFile(proc + "/environ"), testing::Not(HasSubstr("SECRET")));
  EXPECT_EQ(std::filesystem::read_symlink(proc + "/fd/0"), "/dev/null");
  for (const auto& fd : std::filesystem::directory_iterator(proc + "/fd")) {
    EXPECT_NE(std::filesystem::read_symlink(fd.path()), "/dev/zero");
  }
  // Its own session: the terminal's signals are for the vmm alone.
  EXPECT_EQ(getsid(device->pid()), device->pid());
}

#ifdef NDEBUG  // as users run it; a sanitizer's process is another matter
TEST_F(RemoteDeviceTest, TheProcessTakesLessThanFourMebibytesOnceItIsIdle) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->Read(0, 0, 0, 4), 0u);
  std::string memory;
  int64_t kilobytes = 0;
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  do {
    absl::SleepFor(absl::Milliseconds(20));
    memory = ReadFile(absl::StrCat("/proc/", device->pid(), "/smaps_rollup"));
    const size_t pss = memory.find("Pss:");
    ASSERT_NE(pss, std::string::npos);
    kilobytes = strtol(memory.c_str() + pss + 4, nullptr, 10);
  } while (kilobytes >= 4096 && absl::Now() < deadline);
  EXPECT_GT(kilobytes, 0);
  EXPECT_LT(kilobytes, 4096) << memory;
}
#endif

TEST_F(RemoteDeviceTest, StopEndsTheProcessWithoutAFailureReport) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  device->Stop();
  EXPECT_TRUE(Children().empty());
  EXPECT_FALSE(Failure().has_value());
  EXPECT_EQ((*device)->Read(0, 0, 0, 4), kAllOnes32);
}

TEST_F(RemoteDeviceTest, NothingIsLeftBehind) {
  ASSERT_TRUE(Start("").ok());  // what gRPC opens once
  const size_t before = CountDescriptors();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Start("").ok());
    ASSERT_FALSE(Start("exit_at_start").ok());
  }
  // gRPC closes some a moment later.
  EXPECT_TRUE(WaitUntil([&] { return CountDescriptors() <= before; }));
  EXPECT_TRUE(Children().empty());
}

TEST_F(RemoteDeviceTest, AKilledDeviceIsReportedAndReadsAllOnes) {
  auto device = Start("");
  ASSERT_TRUE(device.ok()) << device.status();
  const pid_t pid = device->pid();
  kill(pid, SIGKILL);
  const auto failure = WaitForFailure(*device);
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->device(), "disk0");
  EXPECT_EQ(failure->pid(), pid);
  EXPECT_EQ(failure->reason(), "killed by signal 9 (Killed)");
  EXPECT_EQ((*device)->Read(0, 0, 0, 4), kAllOnes32);
  (*device)->PostWrite(0, 0, 0, 4, 1);
  (*device)->WriteAndWait(0, 0, 0, 4, 1);
  EXPECT_EQ((*device)->dropped_accesses(), 3u);
  EXPECT_TRUE(Children().empty());
}

struct DeathInRead {
  const char* misbehaviour;
  const char* reason;
  const char* last_lines;
};

class DeathInReadTest : public RemoteDeviceTest, public testing::WithParamInterface<DeathInRead> {};

TEST_P(DeathInReadTest, ReleasesTheVcpuAtOnceAndIsReported) {
  auto device = Start(GetParam().misbehaviour);
  ASSERT_TRUE(device.ok()) << device.status();
  const absl::Time start = absl::Now();
  EXPECT_EQ((*device)->Read(0, 0, regs::kTrigger, 4), kAllOnes32);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));  // the access timeout is 10 s
  const auto failure = WaitForFailure(*device);
  ASSERT_TRUE(failure.has_value());
  EXPECT_THAT(failure->reason(), HasSubstr(GetParam().reason));
  EXPECT_THAT(failure->last_lines(), HasSubstr(GetParam().last_lines));
  EXPECT_TRUE(Children().empty());
}

INSTANTIATE_TEST_SUITE_P(Deaths, DeathInReadTest,
                         testing::Values(DeathInRead{"crash_in_read", "signal 11",
                                                     "about to crash"},
                                         DeathInRead{"exit_in_read", "exit code 7", ""}),
                         [](const auto& info) { return std::string(info.param.misbehaviour); });

class ProtocolBreachTest : public RemoteDeviceTest,
                           public testing::WithParamInterface<const char*> {};

TEST_P(ProtocolBreachTest, EndsTheDeviceAndIsReported) {
  DeviceSpec spec = Spec(GetParam());
  spec.access_timeout = absl::Milliseconds(50);
  auto device = Start(std::move(spec));
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->Read(0, 0, regs::kTrigger, 4), kAllOnes32);
  // Some breaches show only once the ring is full.
  for (int i = 0; i < 300; ++i) (*device)->PostWrite(0, 0, 0, 4, 1);
  const auto failure = WaitForFailure(*device);
  ASSERT_TRUE(failure.has_value());
  EXPECT_THAT(failure->reason(), HasSubstr("killed, because the device broke the protocol"));
  EXPECT_TRUE(Children().empty());
}

INSTANTIATE_TEST_SUITE_P(Breaches, ProtocolBreachTest,
                         testing::Values("corrupt_head", "corrupt_completion"),
                         [](const auto& info) { return std::string(info.param); });

class HangInReadTest : public RemoteDeviceTest, public testing::WithParamInterface<const char*> {};

TEST_P(HangInReadTest, TheAccessTimesOutAndReadsAllOnes) {
  const std::string how = GetParam();
  DeviceSpec spec = Spec(how == "stopped" ? "" : how);
  spec.access_timeout = absl::Milliseconds(50);
  auto device = Start(std::move(spec));
  ASSERT_TRUE(device.ok()) << device.status();
  if (how == "stopped") kill(*Children().begin(), SIGSTOP);
  EXPECT_EQ((*device)->Read(0, 0, regs::kTrigger, 4), kAllOnes32);
  EXPECT_EQ((*device)->timed_out_accesses(), 1u);
  EXPECT_EQ((*device)->Read(1, 0, 0, 8), ~uint64_t{0});
  EXPECT_EQ((*device)->timed_out_accesses(), 2u);
  device->Stop();
  EXPECT_TRUE(Children().empty());
}

INSTANTIATE_TEST_SUITE_P(Hangs, HangInReadTest, testing::Values("hang_in_read", "stopped"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(RemoteDeviceTest, CancelAccessesReleasesAWaitingVcpu) {
  auto device = Start("hang_in_read");
  ASSERT_TRUE(device.ok()) << device.status();
  uint64_t value = 0;
  std::thread vcpu([&] { value = (*device)->Read(0, 0, regs::kTrigger, 4); });
  absl::SleepFor(absl::Milliseconds(20));  // it waits by now, or will be refused at once
  const absl::Time start = absl::Now();
  (*device)->CancelAccesses();
  vcpu.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(value, kAllOnes32);
}

struct StartFailure {
  const char* misbehaviour;
  const char* what;
  bool times_out = false;
};

class StartFailureTest : public RemoteDeviceTest,
                         public testing::WithParamInterface<StartFailure> {};

TEST_P(StartFailureTest, IsExplainedAndLeavesNoProcess) {
  SupervisorOptions options = Options();
  options.start_timeout = GetParam().times_out ? absl::Seconds(1) : absl::Seconds(20);
  const auto device = Start(Spec(GetParam().misbehaviour), options);
  ASSERT_FALSE(device.ok());
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("device 'disk0'"));
  EXPECT_THAT(std::string(device.status().message()), HasSubstr(GetParam().what));
  EXPECT_TRUE(Children().empty());
  EXPECT_FALSE(Failure().has_value());
}

INSTANTIATE_TEST_SUITE_P(
    Starts, StartFailureTest,
    testing::Values(
        StartFailure{
            "crash_at_start",
            "it ended during its start: exit code 134 (as by signal 6, Aborted); its last lines:\n"
            "disk0| line one\ndisk0| line two"},
        StartFailure{"exit_at_start", "its flags are wrong: misbehaving: error: --flag=x makes"},
        StartFailure{"never_describe", "asked what it is: no answer came in time", true},
        StartFailure{"print_without_end", "no answer came in time; its last lines:\ndisk0| again",
                     true},
        StartFailure{"garbage_control", "asked what it is: "},
        StartFailure{"bad_bar", "BAR 0: size_bytes is 3000"},
        StartFailure{"never_reply", "attached: no answer came in time", true},
        StartFailure{"bad_reply", "its reply to the attach request does not parse"},
        StartFailure{"close_attach", "the other end of the socket is closed"},
        StartFailure{"refuse", "the input is not to my taste"}),
    [](const auto& info) { return std::string(info.param.misbehaviour); });

TEST_F(RemoteDeviceTest, AFileThatIsNoProgramIsExplained) {
  DeviceSpec spec = Spec("");
  const std::string text = absl::StrCat(getenv("TEST_TMPDIR"), "/text");
  std::ofstream(text) << "not a program\n";
  std::filesystem::permissions(text, std::filesystem::perms::owner_all);
  spec.binary = Program(text);
  const auto device = Start(std::move(spec));
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("Exec format error"));
  EXPECT_TRUE(Children().empty());
}

TEST_F(RemoteDeviceTest, AMissingResourceIsExplained) {
  DeviceSpec spec = Spec("");
  spec.resources.clear();
  const auto device = Start(std::move(spec));
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("needs the resource 'input'"));
}

TEST_F(RemoteDeviceTest, AResourceThatTheDeviceDoesNotKnowIsExplained) {
  DeviceSpec spec = Spec("");
  spec.resources.push_back(
      {.name = "inptu", .file = *HostFile::Open(DeviceBinary(), {.read_only = true})});
  const auto device = Start(std::move(spec));
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("no use for the resource 'inptu'"));
}

TEST_F(RemoteDeviceTest, MoreDescriptorsThanOnePacketCarriesArePassedToEachProcess) {
  DeviceSpec spec = Spec("");
  spec.args = {"--msix_vectors=600"};
  auto device = Start(std::move(spec));
  ASSERT_TRUE(device.ok()) << device.status();
  const pid_t first = device->pid();
  EXPECT_GT(CountDescriptors(first), 600u);
  device->supervisor().Restart(
      /*binary=*/"", /*discard_state=*/false,
      [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
  ASSERT_TRUE(WaitUntil([&] {
    return device->pid() > 0 && device->pid() != first && CountDescriptors(device->pid()) > 600;
  }));
}

TEST_F(RemoteDeviceTest, StartDevicesStopsAllIfOneFails) {
  std::vector<DeviceSpec> specs;
  specs.push_back(Spec(""));
  specs.push_back(Spec("refuse"));
  specs.push_back(Spec(""));
  specs[0].name = "a";
  specs[1].name = "b";
  specs[2].name = "c";
  const auto devices = StartDevices(std::move(specs), ram_, *monitor_, Options());
  EXPECT_THAT(std::string(devices.status().message()), HasSubstr("device 'b'"));
  EXPECT_TRUE(Children().empty());
}

TEST_F(RemoteDeviceTest, StartDevicesStartsSeveral) {
  std::vector<DeviceSpec> specs;
  for (const char* name : {"a", "b", "c", "d"}) {
    specs.push_back(Spec(""));
    specs.back().name = name;
  }
  const auto devices = StartDevices(std::move(specs), ram_, *monitor_, Options());
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 4u);
  for (const auto& device : *devices) {
    EXPECT_TRUE(ReadsUntil(device->device(), regs::kDoorbellCount, 1));
  }
}

// Stands for a vmm that can be killed: starts a device, reports its pid, and waits.
[[noreturn]] void RunVmmThatWaits(int report, const std::string& misbehaviour,
                                  SandboxLayers layers) {
  GuestRam ram = *GuestRam::Create(16 << 20);
  auto monitor = *ProcessMonitor::Create(*Launcher::Start());
  DeviceSpec spec;
  spec.name = "orphan";
  spec.binary = *ProgramFile::Open(DeviceBinary());
  spec.args = {absl::StrCat("--misbehaviour=", misbehaviour)};
  spec.resources.push_back(
      {.name = "input", .file = *HostFile::Open(DeviceBinary(), {.read_only = true})});
  spec.access_timeout = absl::Milliseconds(50);
  spec.sandbox.layers = layers;
  EventLog events;
  SupervisorOptions options;
  options.events = &events;
  auto device = DeviceSupervisor::Create(std::move(spec), ram, *monitor, options);
  const pid_t pid = device.ok() ? (*device)->Describe().pid() : -1;
  if (device.ok() && !misbehaviour.empty()) (*device)->device().Read(0, 0, regs::kTrigger, 4);
  if (write(report, &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
  while (true) pause();
}

using Death = std::pair<const char*, SandboxLayers>;
constexpr SandboxLayers kUserAndPid = SandboxLayers(SandboxLayer::kPid).With(SandboxLayer::kUser);
class VmmDeathTest : public testing::TestWithParam<Death> {};

TEST_P(VmmDeathTest, TheDeviceEndsWithinASecond) {
  int report[2];
  ASSERT_EQ(pipe(report), 0);
  const pid_t vmm = fork();
  ASSERT_GE(vmm, 0);
  const std::string how = GetParam().first;
  if (vmm == 0) RunVmmThatWaits(report[1], how == "stopped" ? "" : how, GetParam().second);
  pid_t device = -1;
  ASSERT_TRUE(IsReadable(report[0], absl::Seconds(10)));
  ASSERT_EQ(read(report[0], &device, sizeof(device)), static_cast<ssize_t>(sizeof(device)));
  ASSERT_GT(device, 0);
  const UniqueFd pid_fd(static_cast<int>(syscall(SYS_pidfd_open, device, 0)));
  ASSERT_TRUE(pid_fd.ok());
  if (how == "stopped") kill(device, SIGSTOP);
  kill(vmm, SIGKILL);
  waitpid(vmm, nullptr, 0);
  EXPECT_TRUE(IsReadable(pid_fd.get(), absl::Seconds(1)));
}

INSTANTIATE_TEST_SUITE_P(States, VmmDeathTest,
                         testing::Values(Death("", SandboxLayer::kPid),
                                         Death("hang_in_read", SandboxLayer::kPid),
                                         Death("stopped", SandboxLayer::kPid),
                                         Death("stopped", kUserAndPid),
                                         Death("stopped", SandboxLayers())));

}  // namespace
}  // namespace bulkhead::vmm
