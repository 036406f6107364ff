// What a supervisor makes of device processes that die, hang, and are commanded about.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/host_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;
using ::testing::HasSubstr;

constexpr uint64_t kAllOnes = ~uint64_t{0};
constexpr uint64_t kRegister = 0;

class SupervisorTest : public SupervisedTest {
 protected:
  // A device whose register holds 42.
  std::unique_ptr<DeviceSupervisor> Device(DeviceSpec spec) {
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device = Supervise(std::move(spec));
    EXPECT_TRUE(device.ok()) << device.status();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    return *std::move(device);
  }
  std::unique_ptr<DeviceSupervisor> Device() { return Device(Spec("")); }

  static uint64_t Read(DeviceSupervisor& device, uint64_t offset = kRegister) {
    return device.device().Read(1, 0, offset, 8);
  }
  static pid_t Pid(const DeviceSupervisor& device) { return device.Describe().pid(); }
  static DeviceSpec WithHeartbeats(DeviceSpec spec) {
    spec.heartbeat = {.interval = absl::Milliseconds(100), .misses = 3};
    return spec;
  }
  std::string LastCause(const DeviceSupervisor& device) {
    const v1::Device described = device.Describe();
    if (described.recent_restarts().empty()) return "";
    return described.recent_restarts().rbegin()->cause();
  }
};

TEST_F(SupervisorTest, AKilledProcessIsReplacedAndItsSuccessorGoesOnFromItsState) {
  const auto device = Device();
  const pid_t old = Pid(*device);
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Read(*device), 42u);
  EXPECT_EQ(States(), "RUNNING RESTARTING RUNNING");
  const v1::Device now = device->Describe();
  EXPECT_EQ(now.generation(), 2u);
  EXPECT_EQ(now.restarts(), 1u);
  ASSERT_EQ(now.recent_restarts_size(), 1);
  EXPECT_EQ(now.recent_restarts(0).cause(), "killed by signal 9 (Killed)");
  ASSERT_TRUE(now.recent_restarts(0).has_downtime());
  EXPECT_LT(now.recent_restarts(0).downtime().seconds(), 10);
  EXPECT_EQ(CountEvents([&](const v1::Event& event) {
              return event.device_ended().pid() == old &&
                     event.device_ended().signal() == SIGKILL &&
                     event.device_ended().generation() == 1 && !event.device_ended().expected();
            }),
            1);
}

TEST_F(SupervisorTest, ASuccessorWaitsUntilTheDirectIoOfItsPredecessorHasEnded) {
  const std::string path = std::filesystem::canonical(testing::TempDir()) / "direct.img";
  std::ofstream(path) << std::string(4096, 'x');
  DeviceSpec spec = Spec("");
  auto file = HostFile::Open(path, {.direct = true});
  ASSERT_TRUE(file.ok()) << file.status();
  spec.resources[0].file = *std::move(file);
  spec.restart.max_crashes = 2;  // to wait is no crash
  const auto device = Device(std::move(spec));
  const pid_t old = Pid(*device);
  // What the kernel keeps open while it reads or writes for that process.
  UniqueFd in_flight = DescriptorOf(old, path);
  ASSERT_TRUE(in_flight.ok()) << strerror(errno);
  kill(old, SIGKILL);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), 42u); });
  EXPECT_TRUE(WaitUntil([&] {
    return device->Describe().state_reason().find("waits for the I/O of its dead process") == 0;
  }));
  absl::SleepFor(absl::Milliseconds(300));  // several tries
  EXPECT_EQ(device->Describe().generation(), 1u);
  in_flight.reset();
  vcpu.join();
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(device->Describe().generation(), 2u);
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SupervisorTest, AnAccessThatWaitsForADeadProcessGetsTheSuccessorsAnswer) {
  const auto device = Device();
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), 42u); });
  std::thread writer([&] { device->device().WriteAndWait(2, 0, regs::kAdd, 8, 7); });
  kill(old, SIGKILL);
  vcpu.join();
  writer.join();
  EXPECT_EQ(Read(*device, regs::kAdd), 7u);
  EXPECT_EQ(device->device().dropped_accesses() + device->device().timed_out_accesses(), 0u);
}

TEST_F(SupervisorTest, AStoppedProcessMissesItsHeartbeatsAndIsReplaced) {
  const auto device = Device(WithHeartbeats(Spec("")));
  ASSERT_TRUE(WaitUntil([&] { return device->Describe().heartbeat().answered() > 0; }));
  EXPECT_TRUE(device->Describe().heartbeat().has_round_trip());
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Read(*device), 42u);
  EXPECT_EQ(LastCause(*device), "killed, because it did not answer its heartbeats");
  EXPECT_GE(CountEvents([](const v1::Event& event) { return event.has_heartbeat_missed(); }), 3);
  EXPECT_EQ(CountEvents([](const v1::Event& event) { return event.has_policy(); }), 1);
  EXPECT_FALSE(Children().count(old));
  // It was away since it stopped, not only since it was killed.
  const google::protobuf::Duration downtime =
      device->Describe().recent_restarts().rbegin()->downtime();
  EXPECT_GE(absl::Seconds(downtime.seconds()) + absl::Nanoseconds(downtime.nanos()),
            absl::Milliseconds(200));
}

TEST_F(SupervisorTest, AHungDeviceIsReplacedAlthoughItsProcessAnswersCalls) {
  DeviceSpec spec = WithHeartbeats(Spec(""));
  spec.binary = Program(BinaryThat("hang_in_read"));
  const auto device = Device(std::move(spec));
  const pid_t old = Pid(*device);
  std::thread vcpu([&] { Read(*device, regs::kTrigger); });
  // The successor finds the same request, and hangs too: that of another binary does not.
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  ASSERT_TRUE(Restart(*device, DeviceBinary()).ok());
  vcpu.join();
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SupervisorTest, HeartbeatsFetchMetricsAndLeaveOutWhatIsNone) {
  const auto device = Device(WithHeartbeats(Spec("")));
  device->device().WriteAndWait(0, 0, regs::kAdd, 8, 5);
  const auto value = [&](const std::string& name) {
    const v1::DeviceMetrics metrics = device->Metrics();
    for (const v1::DeviceMetric& metric : metrics.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    return -1.0;
  };
  EXPECT_TRUE(WaitUntil([&] { return value("sum") >= 0; }));
  EXPECT_GE(value("register_writes_total"), 1);
  EXPECT_EQ(value("No Metric!"), -1);
}

// --- Too many crashes
// -----------------------------------------------------------------------------

TEST_F(SupervisorTest, ACrashLoopEndsAsFailedAndAManualRestartWithAGoodBinaryMendsIt) {
  DeviceSpec spec = Spec("");
  spec.binary = Program(BinaryThat("crash_after_attach"));
  spec.restart = {.min_backoff = absl::Milliseconds(1), .max_crashes = 3};
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> created = Supervise(std::move(spec));
  ASSERT_TRUE(created.ok()) << created.status();
  DeviceSupervisor& device = **created;
  ASSERT_TRUE(WaitForState(device, v1::Device::FAILED));
  EXPECT_THAT(device.Describe().state_reason(), HasSubstr("3 crashes in 1m"));
  EXPECT_EQ(device.Describe().pid(), 0);
  EXPECT_EQ(Read(device), kAllOnes);
  EXPECT_EQ(device.device().timed_out_accesses(), 0u);

  const absl::Status restarted = Restart(device, DeviceBinary());
  EXPECT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(device.Describe().state(), v1::Device::RUNNING);
  device.device().WriteAndWait(0, 0, kRegister, 8, 43);
  EXPECT_EQ(Read(device), 43u);
}

TEST_F(SupervisorTest, ARequestThatKillsEveryProcessIsGivenUpWithTheDevice) {
  DeviceSpec spec = Spec("crash_in_read");
  spec.restart = {.min_backoff = absl::Milliseconds(1), .max_crashes = 3};
  const auto device = Device(std::move(spec));
  EXPECT_EQ(Read(*device, regs::kTrigger), kAllOnes);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  EXPECT_EQ(device->Describe().generation(), 3u);
  // What is in the channel kills the next one, too, unless all is to begin anew.
  const absl::Status restarted = Restart(*device, "", /*discard_state=*/true);
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(Read(*device), 0u);
}

TEST_F(SupervisorTest, AProcessThatBreaksTheProtocolIsReplaced) {
  DeviceSpec spec = Spec("");
  spec.binary = Program(BinaryThat("corrupt_completion"));
  spec.restart.max_crashes = -1;
  spec.access_timeout = absl::Milliseconds(100);  // then at the latest the answer is looked at
  const auto device = Device(std::move(spec));
  EXPECT_EQ(device->device().Read(0, 0, regs::kTrigger, 8), kAllOnes);
  EXPECT_TRUE(WaitUntil([&] { return device->Describe().generation() > 1; }));
  EXPECT_THAT(LastCause(*device), HasSubstr("killed, because the device broke the protocol"));
  ASSERT_TRUE(Restart(*device, DeviceBinary()).ok());
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SupervisorTest, WithThePolicyNeverADeathIsFinalUntilSomebodyRestarts) {
  DeviceSpec spec = Spec("");
  spec.restart.policy = RestartSpec::Policy::kNever;
  const auto device = Device(std::move(spec));
  kill(Pid(*device), SIGKILL);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  EXPECT_EQ(Read(*device), kAllOnes);
  ASSERT_TRUE(Restart(*device).ok());
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SupervisorTest, AProcessThatLeavesByItselfHasCrashedUnlessThePolicyIsOnFailure) {
  const auto device = Device(Spec("leave_in_read"));
  EXPECT_EQ(Read(*device, regs::kTrigger), kAllOnes);
  EXPECT_TRUE(WaitForState(*device, v1::Device::FAILED));
  EXPECT_EQ(device->Describe().generation(), 5u);
  DeviceSpec on_failure = Spec("leave_in_read");
  on_failure.restart.policy = RestartSpec::Policy::kOnFailure;
  const auto other = Device(std::move(on_failure));
  EXPECT_EQ(Read(*other, regs::kTrigger), kAllOnes);
  ASSERT_TRUE(WaitForState(*other, v1::Device::STOPPED));
}

// --- A host that is short of something, and binaries that change
// ----------------------------------

TEST_F(SupervisorTest, AShortageOfTheHostIsNoCrashAndIsWaitedForAsLongAsItTakes) {
  DeviceSpec spec = Spec("");
  spec.restart.max_crashes = 2;  // the process that dies is one
  const auto device = Device(std::move(spec));
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  kill(Pid(*device), SIGKILL);
  // The fifth try and later.
  ASSERT_TRUE(WaitUntil([&] {
    const std::string reason = device->Describe().state_reason();
    return reason.find("next try in 1.") != reason.npos;
  }));
  EXPECT_EQ(device->Describe().state(), v1::Device::RESTARTING);
  EXPECT_THAT(device->Describe().state_reason(), HasSubstr("Too many open files"));
  shortage.reset();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(Read(*device), 42u);
  EXPECT_EQ(States(), "RUNNING RESTARTING RUNNING");
  EXPECT_EQ(LastCause(*device), "killed by signal 9 (Killed)");
  EXPECT_EQ(CountEvents([](const v1::Event& event) { return event.has_policy(); }), 1);
}

TEST_F(SupervisorTest, ACommandToStartSaysWhatTheHostLacksAndIsObeyedLater) {
  const auto device = Device();
  ASSERT_TRUE(StopDevice(*device).ok());
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  const absl::Status started = StartDevice(*device);
  EXPECT_THAT(std::string(started.message()), HasSubstr("Too many open files"));
  EXPECT_EQ(device->Describe().state(), v1::Device::RESTARTING);
  shortage.reset();
  EXPECT_TRUE(WaitForState(*device, v1::Device::RUNNING));
}

TEST_F(SupervisorTest, WhatServesIsWhatWasStartedWhateverBecomesOfItsFile) {
  const std::string path = absl::StrCat(testing::TempDir(), "/device");
  std::filesystem::copy_file(DeviceBinary(), path,
                             std::filesystem::copy_options::overwrite_existing);
  DeviceSpec spec = Spec("");
  spec.binary = Program(path);
  spec.restart.max_crashes = -1;
  const auto device = Device(std::move(spec));
  const auto die_and_come_back = [&] {
    const pid_t old = Pid(*device);
    kill(old, SIGKILL);
    return WaitForSuccessor(*device, old);
  };
  unlink(path.c_str());
  ASSERT_TRUE(die_and_come_back());
  ASSERT_EQ(symlink("/bin/true", path.c_str()), 0);
  ASSERT_TRUE(die_and_come_back());
  EXPECT_TRUE(Restart(*device).ok());
  EXPECT_EQ(Read(*device), 42u);
  // Only a restart with a binary looks at the name, and is remembered.
  EXPECT_THAT(std::string(Restart(*device, path).message()), HasSubstr("exit code 0"));
  unlink(path.c_str());
  const std::string other = BinaryThat("");
  ASSERT_TRUE(Restart(*device, other).ok());
  unlink(other.c_str());
  ASSERT_TRUE(die_and_come_back());
  EXPECT_EQ(device->Describe().binary(), other);
  EXPECT_EQ(Read(*device), 42u);
}

// A process that traces another, which cannot be reaped then: a debugger, or strace.
class Debugger {
 public:
  explicit Debugger(pid_t traced) {
    int attached[2];
    if (pipe2(attached, O_CLOEXEC) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      const char result = ptrace(PTRACE_SEIZE, traced, nullptr, nullptr) == 0 ? 'y' : 'n';
      if (write(attached[1], &result, 1) != 1) _exit(1);
      while (true) pause();
    }
    char result = 0;
    EXPECT_EQ(read(attached[0], &result, 1), 1);
    EXPECT_EQ(result, 'y') << "ptrace is not permitted here";
    close(attached[0]);
    close(attached[1]);
  }
  ~Debugger() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

TEST_F(SupervisorTest, WhatARestartWasAskedForHoldsAlthoughTheOldProcessDoesNotEndInTime) {
  const auto device = Device();
  auto debugger = std::make_unique<Debugger>(Pid(*device));
  const std::string other = BinaryThat("");
  const absl::Status restarted = Restart(*device, other, /*discard_state=*/true);
  EXPECT_TRUE(absl::IsDeadlineExceeded(restarted)) << restarted;
  EXPECT_EQ(device->Describe().state(), v1::Device::RESTARTING);
  debugger.reset();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(device->Describe().binary(), other);
  EXPECT_EQ(Read(*device), 0u) << "the state was to be discarded";
}

// --- Commands
// -------------------------------------------------------------------------------------

TEST_F(SupervisorTest, RestartReplacesTheProcessAndNobodyNotices) {
  const auto device = Device();
  const pid_t old = Pid(*device);
  const absl::Status restarted = Restart(*device);
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_NE(Pid(*device), old);
  EXPECT_FALSE(Children().count(old));
  EXPECT_EQ(Read(*device), 42u);
  EXPECT_EQ(device->device().dropped_accesses(), 0u);
  EXPECT_EQ(LastCause(*device), "asked by a client");
  EXPECT_EQ(States(), "RUNNING RESTARTING RUNNING");
  EXPECT_EQ(CountEvents([](const v1::Event& event) {
              return event.has_device_ended() && event.device_ended().expected();
            }),
            1);
}

TEST_F(SupervisorTest, RestartWithDiscardedStateBeginsAsAfterPowerOn) {
  const auto device = Device();
  ASSERT_TRUE(Restart(*device, "", /*discard_state=*/true).ok());
  EXPECT_EQ(Read(*device), 0u);
}

class UnfitBinaryTest : public SupervisorTest,
                        public testing::WithParamInterface<std::pair<std::string, std::string>> {};

TEST_P(UnfitBinaryTest, IsRefusedAndTheOldProcessGoesOnUntouched) {
  const auto device = Device();
  const pid_t old = Pid(*device);
  const std::string name = GetParam().first;
  const absl::Status restarted =
      Restart(*device, name.find('/') == std::string::npos ? BinaryThat(name) : name);
  EXPECT_TRUE(absl::IsFailedPrecondition(restarted)) << restarted;
  EXPECT_THAT(std::string(restarted.message()), HasSubstr(GetParam().second));
  EXPECT_THAT(std::string(restarted.message()), HasSubstr(absl::StrCat("process ", old)));
  EXPECT_EQ(Pid(*device), old);
  EXPECT_EQ(States(), "RUNNING");
  EXPECT_EQ(Read(*device), 42u);
  EXPECT_EQ(Children().size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(
    Binaries, UnfitBinaryTest,
    testing::Values(std::pair("other_device", "by its PCI identification"),
                    std::pair("other_state_version", "by its state's version (1, 2)"),
                    std::pair("bad_bar", "size_bytes is 3000"),
                    std::pair("crash_at_start", "signal 6"), std::pair("garbage_control", "asked"),
                    std::pair("/bin/true", "it ended during its start: exit code 0"),
                    std::pair("/no/such/binary", "No such file")),
    [](const auto& info) { return absl::StrCat("Case", info.index); });

TEST_F(SupervisorTest, AnotherVersionOfTheStateIsFineIfTheStateIsDiscarded) {
  const auto device = Device();
  const std::string other = BinaryThat("other_state_version");
  const absl::Status restarted = Restart(*device, other, /*discard_state=*/true);
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(Read(*device), 0u);
  device->device().WriteAndWait(0, 0, kRegister, 8, 44);
  // From now on that is the version to go on from.
  EXPECT_TRUE(absl::IsFailedPrecondition(Restart(*device, DeviceBinary())));
  ASSERT_TRUE(Restart(*device).ok());
  EXPECT_EQ(device->Describe().binary(), other);
  EXPECT_EQ(Read(*device), 44u);
}

class FailedTakeoverTest : public SupervisorTest,
                           public testing::WithParamInterface<std::pair<std::string, std::string>> {
};

TEST_P(FailedTakeoverTest, FallsBackToTheOldBinaryAndSaysWhy) {
  SupervisorOptions options = Options();
  options.start_timeout = absl::Seconds(GetParam().first == "never_reply" ? 1 : 30);
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
      DeviceSupervisor::Create(Spec(""), ram_, *monitor_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
  const absl::Status restarted = Restart(**device, BinaryThat(GetParam().first));
  EXPECT_TRUE(absl::IsFailedPrecondition(restarted)) << restarted;
  EXPECT_THAT(std::string(restarted.message()), HasSubstr(GetParam().second));
  EXPECT_THAT(std::string(restarted.message()), HasSubstr(absl::StrCat("of ", DeviceBinary())));
  EXPECT_EQ((*device)->Describe().state(), v1::Device::RUNNING);
  EXPECT_EQ((*device)->Describe().binary(), DeviceBinary());
  EXPECT_EQ(Read(**device), 42u);
  EXPECT_EQ(Children().size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Binaries, FailedTakeoverTest,
                         testing::Values(std::pair("refuse", "not to my taste"),
                                         std::pair("refuse_state", "the state is not to my taste"),
                                         std::pair("crash_in_attach", "signal 11"),
                                         std::pair("bad_reply", "attached"),
                                         std::pair("never_reply", "attached")),
                         [](const auto& info) { return info.param.first; });

TEST_F(SupervisorTest, AnOldProcessThatDoesNotComeToRestIsKilledAndNothingIsLost) {
  DeviceSpec spec = Spec("");
  spec.binary = Program(BinaryThat("never_rests"));
  const auto device = Device(std::move(spec));
  ASSERT_TRUE(Restart(*device, DeviceBinary()).ok());
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SupervisorTest, AStoppedDeviceReadsAllOnesAndGoesOnWhenItIsStarted) {
  const auto device = Device();
  ASSERT_TRUE(StopDevice(*device).ok());
  EXPECT_EQ(device->Describe().state(), v1::Device::STOPPED);
  EXPECT_TRUE(Children().empty());
  EXPECT_EQ(Read(*device), kAllOnes);
  EXPECT_TRUE(StopDevice(*device).ok());
  ASSERT_TRUE(StartDevice(*device).ok());
  EXPECT_EQ(Read(*device), 42u);
  const pid_t pid = Pid(*device);
  EXPECT_TRUE(StartDevice(*device).ok());
  EXPECT_EQ(Pid(*device), pid);
  ASSERT_TRUE(StopDevice(*device).ok());
  ASSERT_TRUE(Restart(*device).ok());
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SupervisorTest, WhatTheGuestToldADeviceThatWasStoppedHoldsWhenItIsBack) {
  const auto device = Device();
  ASSERT_TRUE(StopDevice(*device).ok());
  device->device().SetFunctionState(0, {.bus_master = true, .msix_enabled = true});
  ASSERT_TRUE(StartDevice(*device).ok());
  EXPECT_TRUE(WaitUntil([&] { return Read(*device, regs::kFunctionState) == 3; }));
  EXPECT_EQ(Read(*device), 42u);
  ASSERT_TRUE(StopDevice(*device).ok());
  device->device().Reset(0);
  ASSERT_TRUE(StartDevice(*device).ok());
  EXPECT_EQ(Read(*device), 0u);
}

// The guest resets the device all the while that it comes back. Whichever process that reset, a
// later one goes on from what came after.
TEST_F(SupervisorTest, AResetWhileTheDeviceComesBackIsNotTakenUpByALaterProcess) {
  const auto device = Device();
  ASSERT_TRUE(StopDevice(*device).ok());
  std::atomic<bool> resets = true;
  std::thread vcpu([&] {
    while (resets) device->device().Reset(0);
  });
  ASSERT_TRUE(StartDevice(*device).ok());
  resets = false;
  vcpu.join();
  // Until the supervisor has nothing to do but this.
  ASSERT_TRUE(WaitUntil([&] { return !device->device().reset_missed(); }));
  ASSERT_TRUE(StartDevice(*device).ok());
  device->device().WriteAndWait(0, 0, kRegister, 8, 43);
  const pid_t old = Pid(*device);
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Read(*device), 43u);
}

TEST_F(SupervisorTest, ResetKeepsTheProcessAndForgetsItsState) {
  const auto device = Device();
  device->device().SetFunctionState(0, {.bus_master = true});
  const pid_t pid = Pid(*device);
  ASSERT_TRUE(Reset(*device).ok());
  EXPECT_EQ(Pid(*device), pid);
  EXPECT_EQ(Read(*device), 0u);
  EXPECT_EQ(Read(*device, regs::kFunctionState), 1u);
  EXPECT_EQ(CountEvents([](const v1::Event& event) {
              return event.has_device_reset() && event.device_reset().by() == "a client";
            }),
            1);
}

TEST_F(SupervisorTest, ResetOfADeviceThatIsStoppedHoldsForItsNextStart) {
  const auto device = Device();
  ASSERT_TRUE(StopDevice(*device).ok());
  ASSERT_TRUE(Reset(*device).ok());
  EXPECT_EQ(device->Describe().state(), v1::Device::STOPPED);
  ASSERT_TRUE(StartDevice(*device).ok());
  EXPECT_EQ(Read(*device), 0u);
}

TEST_F(SupervisorTest, AProcessThatDiesOrHangsInItsResetIsReplacedAndBeginsAnew) {
  for (const char* misbehaviour : {"crash_in_reset", "hang_in_reset"}) {
    const auto device = Device(Spec(misbehaviour));
    ASSERT_TRUE(Reset(*device).ok());
    ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
    EXPECT_EQ(Read(*device), 0u);
  }
}

TEST_F(SupervisorTest, ARebootResetsADeviceThatRunsAndOneThatDoesNot) {
  const auto device = Device();
  device->device().SetFunctionState(0, {.bus_master = true});
  ASSERT_TRUE(ResetForReboot(*device).ok());
  EXPECT_EQ(Read(*device), 0u);
  EXPECT_TRUE(WaitUntil([&] { return Read(*device, regs::kFunctionState) == 0; }));

  device->device().WriteAndWait(0, 0, kRegister, 8, 42);
  ASSERT_TRUE(StopDevice(*device).ok());
  ASSERT_TRUE(ResetForReboot(*device).ok());
  ASSERT_TRUE(StartDevice(*device).ok());
  EXPECT_EQ(Read(*device), 0u);
}

TEST_F(SupervisorTest, ARebootWhileTheDeviceIsAwayEmptiesItsChannel) {
  const auto device = Device();
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  kill(Pid(*device), SIGKILL);
  ASSERT_TRUE(WaitForState(*device, v1::Device::RESTARTING));
  device->device().PostWrite(0, 0, kRegister, 8, 43);  // waits in the channel
  ASSERT_TRUE(ResetForReboot(*device).ok());
  shortage.reset();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(Read(*device), 0u);
}

// --- Access policies
// ------------------------------------------------------------------------------

TEST_F(SupervisorTest, WithThePolicyAllOnesNobodyWaitsForADeviceThatIsAway) {
  DeviceSpec spec = Spec("");
  spec.access_policy = AccessPolicy::kAllOnes;
  const auto device = Device(std::move(spec));
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), kAllOnes); });
  kill(old, SIGKILL);
  vcpu.join();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RESTARTING));
  EXPECT_EQ(Read(*device), kAllOnes);
  device->device().WriteAndWait(0, 0, kRegister, 8, 43);
  EXPECT_EQ(device->device().dropped_accesses(), 3u);
  shortage.reset();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(Read(*device), 42u);
}

// A VM of one vCPU, as far as pausing goes.
class PausableVm {
 public:
  void Install(SupervisorOptions& options, std::function<RemoteDevice*()> device) {
    options.park = [this](Requester) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&running_));
      return true;
    };
    options.pause_vm = [this, device](absl::string_view) {
      {
        absl::MutexLock lock(&mutex_);
        running_ = false;
        ++pauses_;
      }
      device()->CancelAccesses();
    };
    options.resume_vm = [this, device](absl::string_view) {
      device()->ResumeAccesses();
      absl::MutexLock lock(&mutex_);
      running_ = true;
    };
  }
  bool running() const {
    absl::MutexLock lock(&mutex_);
    return running_;
  }
  int pauses() const {
    absl::MutexLock lock(&mutex_);
    return pauses_;
  }

 private:
  mutable absl::Mutex mutex_;
  bool running_ ABSL_GUARDED_BY(mutex_) = true;
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0;
};

class PauseVmTest : public SupervisorTest {
 protected:
  std::unique_ptr<DeviceSupervisor> PausingDevice(DeviceSpec spec) {
    spec.access_policy = AccessPolicy::kPauseVm;
    SupervisorOptions options = Options();
    vm_.Install(options, [this] { return remote_.load(); });
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
        DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
    EXPECT_TRUE(device.ok()) << device.status();
    remote_ = &(*device)->device();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    return *std::move(device);
  }

  PausableVm vm_;
  std::atomic<RemoteDevice*> remote_{nullptr};
};

TEST_F(PauseVmTest, TheVmIsPausedUntilTheDeviceIsBackAndTheAccessGoesOn) {
  const auto device = PausingDevice(Spec(""));
  auto shortage = std::make_unique<ShortageOfDescriptors>();
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), 42u); });
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return !vm_.running(); }));
  shortage.reset();
  vcpu.join();
  EXPECT_TRUE(vm_.running());
  EXPECT_EQ(vm_.pauses(), 1);
  EXPECT_EQ(device->device().dropped_accesses(), 0u);
}

TEST_F(PauseVmTest, ADeviceThatHasFailedKeepsTheVmPausedUntilSomebodyRestartsIt) {
  DeviceSpec spec = Spec("");
  spec.restart.policy = RestartSpec::Policy::kNever;
  const auto device = PausingDevice(std::move(spec));
  const pid_t old = Pid(*device);
  kill(old, SIGSTOP);
  std::thread vcpu([&] { EXPECT_EQ(Read(*device), 42u); });
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  EXPECT_FALSE(vm_.running());
  ASSERT_TRUE(Restart(*device).ok());
  vcpu.join();
  EXPECT_TRUE(vm_.running());
}

TEST_F(PauseVmTest, AStoppedDeviceLetsTheVmGoOn) {
  DeviceSpec spec = Spec("");
  spec.restart.policy = RestartSpec::Policy::kNever;
  const auto device = PausingDevice(std::move(spec));
  kill(Pid(*device), SIGKILL);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  ASSERT_TRUE(StopDevice(*device).ok());
  EXPECT_TRUE(vm_.running());
  EXPECT_EQ(Read(*device), kAllOnes);
}

// --- Spares
// ---------------------------------------------------------------------------------------

class SpareTest : public SupervisorTest {
 protected:
  std::unique_ptr<DeviceSupervisor> DeviceWithSpare() {
    DeviceSpec spec = Spec("");
    spec.spare = true;
    auto device = Device(std::move(spec));
    EXPECT_TRUE(WaitForSpare(*device));
    return device;
  }
  bool WaitForSpare(const DeviceSupervisor& device) {
    return WaitUntil([&] { return device.Describe().has_spare(); });
  }
  static pid_t SparePid(const DeviceSupervisor& device) {
    for (const pid_t child : Children()) {
      if (child != Pid(device)) return child;
    }
    return -1;
  }
};

TEST_F(SpareTest, IsTheSuccessorOfAProcessThatDiesAndGetsASuccessorItself) {
  const auto device = DeviceWithSpare();
  for (int i = 0; i < 3; ++i) {
    const pid_t spare = SparePid(*device);
    const pid_t old = Pid(*device);
    kill(old, SIGKILL);
    ASSERT_TRUE(WaitForSuccessor(*device, old));
    EXPECT_EQ(Pid(*device), spare);
    EXPECT_EQ(Read(*device), 42u);
    ASSERT_TRUE(WaitForSpare(*device));
  }
}

TEST_F(SpareTest, ThatDiesIsReplacedAndTheDeviceDoesNotNotice) {
  const auto device = DeviceWithSpare();
  const pid_t pid = Pid(*device);
  const pid_t spare = SparePid(*device);
  kill(spare, SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return !device->Describe().has_spare(); }));
  ASSERT_TRUE(WaitForSpare(*device));
  EXPECT_NE(SparePid(*device), spare);
  EXPECT_EQ(Pid(*device), pid);
  EXPECT_EQ(States(), "RUNNING");
}

TEST_F(SpareTest, ThatDiesTogetherWithTheProcessIsNoLoss) {
  const auto device = DeviceWithSpare();
  const pid_t old = Pid(*device);
  kill(SparePid(*device), SIGKILL);
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForSuccessor(*device, old));
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(SpareTest, ThatHangsIsNotWaitedForWhenItIsNeeded) {
  DeviceSpec spec = Spec("");
  spec.spare = true;
  spec.restart.max_crashes = 2;  // the process that dies is one: the spare is none
  SupervisorOptions options = Options();
  options.start_timeout = absl::Seconds(100);
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
      DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
  ASSERT_TRUE(WaitForSpare(**device));
  const pid_t old = Pid(**device);
  const pid_t spare = SparePid(**device);
  kill(spare, SIGSTOP);
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitForSuccessor(**device, old));  // within kTestTimeout
  EXPECT_NE(Pid(**device), spare);
  EXPECT_EQ(Read(**device), 42u);
  EXPECT_TRUE(WaitUntil([&] { return !Children().count(spare); }));
}

TEST_F(SpareTest, ThatHangsIsNoticedAndReplaced) {
  const auto device = DeviceWithSpare();
  const pid_t spare = SparePid(*device);
  kill(spare, SIGSTOP);
  ASSERT_TRUE(WaitUntil([&] { return !Children().count(spare); }));
  ASSERT_TRUE(WaitForSpare(*device));
  EXPECT_EQ(States(), "RUNNING");
}

TEST_F(SpareTest, IsNotUsedForACommandedRestartAndFollowsItsBinary) {
  const auto device = DeviceWithSpare();
  const pid_t spare = SparePid(*device);
  const std::string binary = BinaryThat("");
  ASSERT_TRUE(Restart(*device, binary).ok());
  EXPECT_NE(Pid(*device), spare);
  ASSERT_TRUE(WaitForSpare(*device));
  const pid_t next = SparePid(*device);
  EXPECT_NE(next, spare);
  EXPECT_THAT(ReadFile(absl::StrCat("/proc/", next, "/cmdline")), HasSubstr(binary));
}

// --- Deaths and commands in the middle of others
// --------------------------------------------------

TEST_F(SupervisorTest, ADeathIsNoticedWhileTheSuccessorOfACommandHangs) {
  SupervisorOptions options = Options();
  options.start_timeout = absl::Seconds(2);
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
      DeviceSupervisor::Create(Spec(""), ram_, *monitor_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
  const pid_t old = Pid(**device);
  absl::Status restarted;
  absl::Notification done;
  (*device)->Restart(BinaryThat("never_describe"), false, [&](absl::Status status) {
    restarted = std::move(status);
    done.Notify();
  });
  ASSERT_TRUE(WaitUntil([] { return Children().size() == 2; }));
  kill(old, SIGKILL);
  EXPECT_TRUE(WaitForState(**device, v1::Device::RESTARTING));
  EXPECT_FALSE(done.HasBeenNotified());
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(kTestTimeout));
  EXPECT_TRUE(absl::IsFailedPrecondition(restarted)) << restarted;
  ASSERT_TRUE(WaitForSuccessor(**device, old));
  EXPECT_EQ(Read(**device), 42u);
}

TEST_F(SupervisorTest, ACommandInterruptsARestartThatHangs) {
  // A program that is the device, as long as a certain file is there; else it runs, and does not
  // say what device it is.
  const std::string honest = absl::StrCat(testing::TempDir(), "/honest");
  std::ofstream(honest) << "yes";
  const std::string script = absl::StrCat(testing::TempDir(), "/script");
  std::ofstream(script) << "#!/bin/sh\n[ -e " << honest << " ] || exec sleep 1000\nexec "
                        << DeviceBinary() << "\n";
  ASSERT_EQ(chmod(script.c_str(), 0700), 0);
  DeviceSpec spec = Spec("");
  spec.binary = Program(script);
  SupervisorOptions options = Options();
  options.start_timeout = absl::Seconds(100);
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
      DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
  const pid_t old = Pid(**device);
  unlink(honest.c_str());
  kill(old, SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return Children().size() == 1 && !Children().count(old); }));
  const absl::Status restarted = Restart(**device, DeviceBinary());
  ASSERT_TRUE(restarted.ok()) << restarted;  // within kTestTimeout
  EXPECT_EQ(Read(**device), 42u);
  EXPECT_TRUE(WaitUntil([] { return Children().size() == 1; }));
}

TEST_F(SupervisorTest, ShutdownInterruptsEverythingAndAnswersWhatIsWaiting) {
  DeviceSpec spec = Spec("");
  auto device = Device(std::move(spec));
  std::vector<absl::Status> results(3);
  std::vector<absl::Notification> done(3);
  const auto into = [&](size_t i) {
    return [&, i](absl::Status status) {
      results[i] = std::move(status);
      done[i].Notify();
    };
  };
  device->Restart(BinaryThat("never_describe"), false, into(0));
  device->Reset(into(1));
  ASSERT_TRUE(WaitUntil([] { return Children().size() == 2; }));
  const absl::Time start = absl::Now();
  device->Shutdown();
  device->AwaitShutdown();
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));  // the successor has 10 to describe itself
  device->Stop(into(2));
  for (size_t i = 0; i < done.size(); ++i) {
    ASSERT_TRUE(done[i].WaitForNotificationWithTimeout(kTestTimeout)) << i;
    EXPECT_TRUE(absl::IsUnavailable(results[i])) << i << ": " << results[i];
  }
  EXPECT_EQ(Read(*device), kAllOnes);
  device.reset();
  EXPECT_TRUE(WaitUntil([] { return Children().empty(); }));
}

TEST_F(SupervisorTest, ShutdownIsNoFailureAndLosesNoWrite) {
  const auto device = Device();
  for (int i = 0; i < 100; ++i) device->device().PostWrite(0, 0, regs::kAdd, 8, 1);
  device->Shutdown();
  device->AwaitShutdown();
  EXPECT_TRUE(Children().empty());
  EXPECT_EQ(CountEvents([](const v1::Event& event) {
              return event.has_device_ended() && !event.device_ended().expected();
            }),
            0);
}

TEST_F(SupervisorTest, SeveralDevicesRecoverAtOnce) {
  std::vector<DeviceSpec> specs;
  for (const char* name : {"a", "b", "c", "d"}) {
    specs.push_back(Spec(""));
    specs.back().name = name;
  }
  auto devices = StartDevices(std::move(specs), ram_, *monitor_, Options());
  ASSERT_TRUE(devices.ok()) << devices.status();
  std::vector<pid_t> old;
  for (const auto& device : *devices) {
    device->device().WriteAndWait(0, 0, kRegister, 8, 42);
    old.push_back(Pid(*device));
  }
  for (const pid_t pid : old) kill(pid, SIGKILL);
  for (size_t i = 0; i < old.size(); ++i) {
    EXPECT_TRUE(WaitForSuccessor(*(*devices)[i], old[i]));
    EXPECT_EQ(Read(*(*devices)[i]), 42u);
  }
}

}  // namespace
}  // namespace bulkhead::vmm
