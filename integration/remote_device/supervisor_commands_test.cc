// What a supervisor makes of commands: restart, stop, start, reset, reboot.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervisor_fixture.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;
using ::testing::HasSubstr;

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
    testing::Values(std::pair("other_device", "different PCI identification"),
                    std::pair("other_state_version", "different state version (1, 2)"),
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
  // From now on that is the version for the next restart.
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

class FlagsTest : public SupervisorTest, public testing::WithParamInterface<std::string> {};

// Whatever the flags do to the new process: what serves afterwards, and what follows that, has the
// flags of before.
TEST_P(FlagsTest, ThatMakeNoDeviceAreForgotten) {
  DeviceSpec spec = Spec("");
  spec.restart.max_crashes = 1;
  const auto device = Device(std::move(spec));
  const auto before = device->Describe().arg();
  const std::string flag = absl::StrCat("--misbehaviour=", GetParam());
  const absl::Status changed =
      Await([&](auto done) { device->ChangeFlags({{"--misbehaviour", flag}}, std::move(done)); });
  EXPECT_TRUE(absl::IsFailedPrecondition(changed)) << changed;
  EXPECT_EQ(device->Describe().state(), v1::Device::RUNNING);
  EXPECT_THAT(device->Describe().arg(), testing::ElementsAreArray(before));
  EXPECT_EQ(Read(*device), 42u);
  const pid_t old = Pid(*device);
  ASSERT_TRUE(Restart(*device).ok());
  EXPECT_NE(Pid(*device), old);
  EXPECT_EQ(Read(*device), 42u);
}

INSTANTIATE_TEST_SUITE_P(Flags, FlagsTest,
                         testing::Values("exit_at_start", "refuse", "refuse_state",
                                         "crash_in_attach"),
                         [](const auto& info) { return info.param; });

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
// later one resumes from the later state.
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

}  // namespace
}  // namespace bulkhead::vmm
