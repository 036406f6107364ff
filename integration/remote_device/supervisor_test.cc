// How a supervisor handles device processes that die or hang.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervisor_fixture.h"
#include "vmm/config/host_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;
using ::testing::HasSubstr;

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
  const std::string path = DirectFile();
  DeviceSpec spec = DirectSpec(path);
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

TEST_F(SupervisorTest, MetricsAreFreshAndWithoutWhatIsNone) {
  const auto device = Device(Spec(""));
  device->device().WriteAndWait(0, 0, regs::kAdd, 8, 5);
  RefreshMetrics(*device);
  EXPECT_EQ(MetricOf(*device, "sum"), 5);
  EXPECT_GE(MetricOf(*device, "register_writes_total"), 1);
  EXPECT_EQ(MetricOf(*device, "No Metric!"), -1);
  device->device().WriteAndWait(0, 0, regs::kAdd, 8, 1);
  RefreshMetrics(*device);
  EXPECT_EQ(MetricOf(*device, "sum"), 6);
  ASSERT_TRUE(StopDevice(*device).ok());
  RefreshMetrics(*device);
  EXPECT_EQ(MetricOf(*device, "sum"), 6) << "the last that is known";
}

// --- Too many crashes ---

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

// --- A host that is short of something ---

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

// --- Deaths and commands in the middle of others ---

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
  const std::string honest = WriteTempFile("honest", "yes");
  DeviceSpec spec = Spec("");
  spec.binary = Program(ProgramThatNeeds(honest));
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
