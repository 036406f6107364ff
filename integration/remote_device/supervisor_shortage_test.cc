// What a supervisor makes of a host that is short of something: of what the vmm needs to start a
// process, or of what the process itself needs.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kRegister = 0;

class ShortageTest : public SupervisedTest {
 protected:
  ~ShortageTest() override { End(); }

  // A device whose processes misbehave so while the shortage lasts.
  DeviceSpec SpecThatMayLack(const std::string& misbehaviour, const std::string& otherwise = "") {
    const std::string script = absl::StrCat(testing::TempDir(), "/", getpid(), "-script");
    std::ofstream(script) << "#!/bin/sh\n[ -e " << sign_ << " ] && echo >>" << tries_ << " && exec "
                          << DeviceBinary() << " --misbehaviour=" << misbehaviour << "\nexec "
                          << DeviceBinary() << " --misbehaviour=" << otherwise << "\n";
    EXPECT_EQ(chmod(script.c_str(), 0700), 0);
    DeviceSpec spec = Spec("");
    spec.binary = Program(script);
    return spec;
  }
  void Begin() {
    std::ofstream(tries_).close();
    std::ofstream(sign_).close();
  }
  void End() { unlink(sign_.c_str()); }
  // How many processes were started since Begin().
  size_t Tries() const { return ReadFile(tries_).size(); }

  std::unique_ptr<DeviceSupervisor> Device(DeviceSpec spec) {
    SupervisorOptions options = Options();
    options.vcpus = 30;  // as many completion events come with an attachment
    absl::StatusOr<std::unique_ptr<DeviceSupervisor>> device =
        DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, options);
    EXPECT_TRUE(device.ok()) << device.status();
    (*device)->device().WriteAndWait(0, 0, kRegister, 8, 42);
    return *std::move(device);
  }
  static uint64_t Read(DeviceSupervisor& device, uint64_t offset = kRegister) {
    return device.device().Read(1, 0, offset, 8);
  }
  static pid_t Pid(const DeviceSupervisor& device) { return device.Describe().pid(); }
  // The fifth try or a later one has failed, or the device is given up.
  bool WaitForManyTries(const DeviceSupervisor& device) {
    return WaitUntil([&] {
      const v1::Device now = device.Describe();
      return now.state() == v1::Device::FAILED ||
             now.state_reason().find("next try in 1.") != std::string::npos;
    });
  }

 private:
  const std::string sign_ = absl::StrCat(testing::TempDir(), "/", getpid(), "-shortage");
  const std::string tries_ = absl::StrCat(sign_, "-tries");
};

class ProcessShortageTest
    : public ShortageTest,
      public testing::WithParamInterface<std::pair<std::string, std::string>> {};

TEST_P(ProcessShortageTest, IsNoCrashAndIsWaitedForAsLongAsItTakes) {
  DeviceSpec spec = SpecThatMayLack(GetParam().first);
  spec.restart.max_crashes = 2;  // the process that is killed is one
  const auto device = Device(std::move(spec));
  Begin();
  kill(Pid(*device), SIGKILL);
  ASSERT_TRUE(WaitForManyTries(*device));
  ASSERT_EQ(device->Describe().state(), v1::Device::RESTARTING)
      << device->Describe().state_reason();
  EXPECT_THAT(device->Describe().state_reason(), HasSubstr(GetParam().second));
  End();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(Read(*device), 42u);
  EXPECT_EQ(States(), "RUNNING RESTARTING RUNNING");
  EXPECT_EQ(CountEvents([](const v1::Event& event) { return event.has_policy(); }), 1);
}

INSTANTIATE_TEST_SUITE_P(
    Of, ProcessShortageTest,
    testing::Values(std::pair("lack_threads", "starting a thread"),
                    std::pair("lack_descriptors", "Too many open files"),
                    std::pair("lack_descriptors_in_attach", "not all descriptors"),
                    std::pair("lack_memory_in_attach", "memory"),
                    std::pair("lack_threads_in_attach", "Resource temporarily unavailable")),
    [](const auto& info) { return info.param.first; });

TEST_F(ShortageTest, AProcessThatServedAndThenClaimsAShortageHasCrashed) {
  DeviceSpec spec = Spec("claim_shortage_in_read");
  spec.restart = {.min_backoff = absl::Milliseconds(1), .max_crashes = 3};
  const auto device = Device(std::move(spec));
  Read(*device, regs::kTrigger);
  ASSERT_TRUE(WaitForState(*device, v1::Device::FAILED));
  EXPECT_EQ(device->Describe().generation(), 3u);
}

TEST_F(ShortageTest, OfThreadsDoesNotKeepADeviceThatServesFromAnsweringCalls) {
  const auto device = Device(Spec("lack_threads_in_read"));
  const pid_t pid = Pid(*device);
  RefreshMetrics(*device);
  Read(*device, regs::kTrigger);
  for (int i = 1; i <= 20; ++i) {
    device->device().WriteAndWait(0, 0, regs::kAdd, 8, 1);
    // A call may be refused while the thread of the last one ends.
    EXPECT_TRUE(WaitUntil([&] {
      RefreshMetrics(*device);
      return MetricOf(*device, "sum") == i;
    }));
  }
  EXPECT_EQ(Pid(*device), pid);
}

TEST_F(ShortageTest, DoesNotTakeBackTheBinaryThatARestartWasAskedFor) {
  const std::string other = SpecThatMayLack("lack_descriptors_in_attach").binary.path();
  const auto device = Device(Spec(""));
  Begin();
  const absl::Status restarted = Restart(*device, other);
  EXPECT_TRUE(absl::IsDeadlineExceeded(restarted)) << restarted;
  EXPECT_THAT(std::string(restarted.message()), HasSubstr("not all descriptors"));
  EXPECT_EQ(device->Describe().state(), v1::Device::RESTARTING);
  End();
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(device->Describe().binary(), other);
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(ShortageTest, AfterTheStateWasDiscardedDoesNotBindTheDeviceToItsVersion) {
  const std::string other =
      SpecThatMayLack("lack_descriptors_in_attach", "other_state_version").binary.path();
  DeviceSpec spec = Spec("");
  spec.restart.max_crashes = 1;
  const auto device = Device(std::move(spec));
  Begin();
  const absl::Status restarted = Restart(*device, other, /*discard_state=*/true);
  EXPECT_TRUE(absl::IsDeadlineExceeded(restarted)) << restarted;
  ASSERT_TRUE(WaitForManyTries(*device));  // each of which gets the state
  End();
  ASSERT_TRUE(WaitUntil([&] { return device->Describe().state() != v1::Device::RESTARTING; }));
  EXPECT_EQ(device->Describe().state(), v1::Device::RUNNING) << device->Describe().state_reason();
  EXPECT_EQ(device->Describe().binary(), other);
  EXPECT_EQ(Read(*device), 0u);
}

// Below what is open: what a dead process leaves free is of no use either.
class LowLimitOfDescriptors {
 public:
  LowLimitOfDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit low = {.rlim_cur = 8, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
  }
  ~LowLimitOfDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_ = {};
};

TEST_F(ShortageTest, OfTheVmmLeavesAProcessThatCannotBeAttachedAlive) {
  DeviceSpec spec = Spec("");
  spec.spare = true;
  spec.restart.max_crashes = 3;  // the processes that are killed are two
  const auto device = Device(std::move(spec));
  const auto spare = [&] {
    EXPECT_TRUE(WaitUntil([&] { return device->Describe().has_spare(); }));
    std::set<pid_t> children = Children();
    children.erase(Pid(*device));
    return children.size() == 1 ? *children.begin() : kNoProcess;
  };
  // The first one gets the file that was opened ahead of time.
  const pid_t first = spare();
  {
    const LowLimitOfDescriptors low;
    kill(Pid(*device), SIGKILL);
    ASSERT_TRUE(WaitUntil([&] { return Pid(*device) == first; }));
  }
  const pid_t second = spare();
  v1::Device meanwhile;
  {
    const LowLimitOfDescriptors low;
    kill(first, SIGKILL);
    ASSERT_TRUE(WaitForManyTries(*device));
    meanwhile = device->Describe();
  }
  EXPECT_EQ(meanwhile.state(), v1::Device::RESTARTING);
  EXPECT_THAT(meanwhile.state_reason(), HasSubstr("Too many open files"));
  EXPECT_THAT(meanwhile.state_reason(), Not(HasSubstr("printed")));
  ASSERT_TRUE(WaitForState(*device, v1::Device::RUNNING));
  EXPECT_EQ(Pid(*device), second);
  EXPECT_EQ(Read(*device), 42u);
}

TEST_F(ShortageTest, OfASpareIsTriedAgainWithoutHasteAndTheDeviceDoesNotNotice) {
  DeviceSpec spec = SpecThatMayLack("lack_descriptors");
  spec.spare = true;
  const auto device = Device(std::move(spec));
  ASSERT_TRUE(WaitUntil([&] { return device->Describe().has_spare(); }));
  Begin();
  const pid_t pid = Pid(*device);
  for (const pid_t child : Children()) {
    if (child != pid) kill(child, SIGKILL);
  }
  ASSERT_TRUE(WaitUntil([&] { return !device->Describe().has_spare(); }));
  testing::internal::CaptureStderr();
  const bool tried = WaitUntil([&] { return Tries() >= 4; });
  // However its end is noticed, it is no failure of its own.
  EXPECT_THAT(testing::internal::GetCapturedStderr(), Not(HasSubstr("exit code 75")));
  ASSERT_TRUE(tried);
  End();
  EXPECT_TRUE(WaitUntil([&] { return device->Describe().has_spare(); }));
  EXPECT_EQ(Pid(*device), pid);
  EXPECT_EQ(States(), "RUNNING");
}

}  // namespace
}  // namespace bulkhead::vmm
