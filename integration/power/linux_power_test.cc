// The power states of a Linux guest: suspended to idle, it is woken by `vmctl wake`, by its power
// button, and by a key if the guest has asked for that; a button that is pressed before its kernel
// listens is not lost.

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kPatience = absl::Seconds(90);

class LinuxPowerTest : public ::testing::Test {
 protected:
  void Boot() {
    absl::StatusOr<std::unique_ptr<GuestShell>> guest =
        GuestShell::Boot({"--name=power", "--cpus=2", "--memory=256M", "--rng"});
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = *std::move(guest);
    client_ = std::make_unique<VmClient>(ControlSocketOf("power"));
  }
  // Returns once the guest sleeps, as far as can be seen: it does not answer.
  void Suspend() {
    ++sleeps_;
    ASSERT_TRUE(
        guest_->vm()
            .Type(absl::StrCat("echo SLEE''PS ", sleeps_,
                               "; echo mem > /sys/power/state; echo AWA''KE ", sleeps_, "\n"))
            .ok());
    ASSERT_TRUE(
        guest_->vm().WaitForOutput(absl::StrCat("SLEEPS ", sleeps_, "\r\n"), kPatience).ok());
    const absl::Status awake = guest_->vm().WaitForOutput("AWAKE", absl::Seconds(10)).status();
    ASSERT_TRUE(absl::IsDeadlineExceeded(awake)) << "it does not sleep";
  }
  void ExpectAwake() {
    const absl::Status awake =
        guest_->vm().WaitForOutput(absl::StrCat("AWAKE ", sleeps_), kPatience).status();
    ASSERT_TRUE(awake.ok()) << awake;
    const absl::StatusOr<std::string> answer = guest_->Run("echo answer");
    ASSERT_TRUE(answer.ok()) << answer.status();
  }

  std::unique_ptr<GuestShell> guest_;
  std::unique_ptr<VmClient> client_;
  int sleeps_ = 0;
};

TEST_F(LinuxPowerTest, ASuspendedGuestIsWoken) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  const absl::Status idle = client_->Wake();
  ASSERT_TRUE(idle.ok()) << "an awake guest is woken: " << idle;
  for (int i = 0; i < 2; ++i) {
    ASSERT_NO_FATAL_FAILURE(Suspend());
    ASSERT_TRUE(client_->Wake().ok());
    ASSERT_NO_FATAL_FAILURE(ExpectAwake()) << "vmctl wake";
  }
  const absl::StatusOr<std::string> enabled =
      guest_->Run("echo enabled > /sys/class/tty/ttyS0/power/wakeup");
  ASSERT_TRUE(enabled.ok()) << enabled.status();
  ASSERT_NO_FATAL_FAILURE(Suspend());
  ASSERT_TRUE(guest_->vm().Type("\n").ok());
  ASSERT_NO_FATAL_FAILURE(ExpectAwake()) << "a key";

  const absl::StatusOr<std::string> devices =
      guest_->Run("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c; cat /sys/power/mem_sleep");
  ASSERT_TRUE(devices.ok()) << devices.status();
  EXPECT_EQ(*devices, "16\n[s2idle]");
  EXPECT_EQ(guest_->KernelErrors().value_or("unknown"), "");

  // Last, since Linux may report a press that wakes it as well, and then the guest powers off. If
  // it does not, a second press is what it is otherwise.
  ASSERT_NO_FATAL_FAILURE(Suspend());
  ASSERT_TRUE(client_->Shutdown().ok());
  const absl::Status awake =
      guest_->vm().WaitForOutput(absl::StrCat("AWAKE ", sleeps_), kPatience).status();
  ASSERT_TRUE(awake.ok()) << "the power button: " << awake;
  (void)client_->Shutdown();  // fails where the first press has ended the VM
  ASSERT_TRUE(guest_->vm().WaitForOutput("BULKHEAD-POWER-BUTTON", kPatience).ok());
  const absl::StatusOr<ExitInfo> exit = guest_->vm().WaitForExit(kPatience);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

}  // namespace
}  // namespace bulkhead::integration
