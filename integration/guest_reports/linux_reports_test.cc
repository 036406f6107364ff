// Debian's kernel with its own drivers for the watchdog and for pvpanic: the watchdog does not
// expire while a program of the guest feeds it, also when the device's process is killed meanwhile,
// and does when that program stops; and the kernel's panic is reported. It is the kernel for any
// machine: the cloud flavour, which other tests have, has no driver i6300esb.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Minutes(2);
// After which the watchdog expires, in seconds of the guest. A slow host must not exceed it.
constexpr int kHeartbeat = 12;
constexpr char kWatchdogIds[] = "0x8086 0x25ab";
constexpr char kPvpanicIds[] = "0x1b36 0x0011";
constexpr char kWatchdog[] = "/sys/class/watchdog/watchdog0/";

#define GUEST(...)                                                                         \
  ({                                                                                       \
    const absl::StatusOr<std::string> guest_output = guest_->Run(__VA_ARGS__);             \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status() << "\n" << guest_->vm().log(); \
    *guest_output;                                                                         \
  })

class LinuxReportsTest : public testing::Test {
 protected:
  void Boot() {
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--name=reports", "--memory=256M", "--cpus=1", "--watchdog", "--pvpanic",
                          "--kernel=" + DataFile("external/debian_testbed_kernel/vmlinux"),
                          "--initrd=" + DataFile("kernel_images/generic_initramfs.cpio")},
                         /*cmdline=*/"", /*reboots=*/true);
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
  }

  // The PCI function with these IDs, which has a driver once the module is loaded.
  void LoadDriver(const std::string& module, const std::string& ids, std::string& function) {
    function =
        GUEST(absl::StrCat("found=; modprobe ", module,
                           " && for f in /sys/bus/pci/devices/*; do if [ \"$(cat $f/vendor)",
                           " $(cat $f/device)\" = '", ids,
                           "' ]; then found=$f; fi; done; [ -d $found/driver ] && echo $found"));
  }

  // A program of the guest opens the watchdog, which starts it, and feeds it each second.
  void Feed() {
    GUEST(
        "exec 3> /dev/watchdog && { while echo >&3; do sleep 1 3>&-; done & }; feeder=$!; "
        "sleep 0");
    EXPECT_EQ(GUEST(absl::StrCat("cat ", kWatchdog, "state")), "active");
  }
  // For longer than it would take to expire.
  void KeepFed() {
    GUEST(absl::StrCat("sleep ", kHeartbeat + 3), kTimeout);
    GUEST("kill -0 $feeder");
    EXPECT_EQ(Expirations(), 0u) << guest_->vm().log();
  }

  void KillProcess(const std::string& device) {
    const uint64_t generation = Client().GenerationOf(device);
    ASSERT_TRUE(Client().KillProcessOf(device));
    ASSERT_TRUE(Client().AwaitGeneration(device, generation + 1)) << guest_->vm().log();
  }

  static size_t Reports(v1::GuestReport::Kind kind) {
    const absl::StatusOr<std::vector<v1::Event>> events = Client().PastEvents();
    EXPECT_TRUE(events.ok()) << events.status();
    size_t reports = 0;
    if (!events.ok()) return reports;
    for (const v1::Event& event : *events) {
      reports += event.has_guest_report() && event.guest_report().kind() == kind;
    }
    return reports;
  }
  static size_t Expirations() { return Reports(v1::GuestReport::WATCHDOG_EXPIRED); }

  // Not before the start of the vmm: the harness chooses the socket's folder then.
  static VmClient Client() { return VmClient(ControlSocketOf("reports")); }

  std::unique_ptr<GuestShell> guest_;
};

// One guest for all: its boot takes longer than what is shown.
TEST_F(LinuxReportsTest, TheWatchdogExpiresOnceNobodyFeedsItAndAPanicEndsTheVm) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  std::string function;
  {
    SCOPED_TRACE("it is fed while its process is killed");
    ASSERT_NO_FATAL_FAILURE(
        LoadDriver(absl::StrCat("i6300esb heartbeat=", kHeartbeat), kWatchdogIds, function));
    EXPECT_EQ(GUEST(absl::StrCat("cat ", kWatchdog, "identity")), "i6300ESB timer");
    EXPECT_EQ(GUEST(absl::StrCat("cat ", kWatchdog, "timeout")), absl::StrCat(kHeartbeat));
    EXPECT_EQ(GUEST(absl::StrCat("cat ", kWatchdog, "bootstatus")), "0");
    ASSERT_NO_FATAL_FAILURE(Feed());
    ASSERT_NO_FATAL_FAILURE(KeepFed());
    for (int kills = 0; kills < 2; ++kills) {
      ASSERT_NO_FATAL_FAILURE(KillProcess("i6300esb"));
      ASSERT_NO_FATAL_FAILURE(KeepFed());
    }
    EXPECT_EQ(Client().GetDevice("i6300esb")->generation(), 3u);
    EXPECT_EQ(Client().GetStatus()->reboots(), 0u);
    EXPECT_EQ(guest_->KernelErrors().value_or("the guest is silent"), "");
  }
  {
    SCOPED_TRACE("nobody feeds it");
    // Without the letter by which a program says that it ends on purpose.
    EXPECT_THAT(GUEST("kill $feeder; wait $feeder; exec 3>&-; dmesg | grep watchdog0"),
                HasSubstr("watchdog did not stop!"));
    const absl::Status booted = guest_->AwaitReady();
    ASSERT_TRUE(booted.ok()) << booted << "\n" << guest_->vm().log();
    EXPECT_EQ(Client().GetStatus()->reboots(), 1u);
    EXPECT_EQ(Expirations(), 1u) << guest_->vm().log();
  }
  {
    SCOPED_TRACE("after the reboot its driver knows why, and a program may stop it");
    constexpr int kShort = 4;
    ASSERT_NO_FATAL_FAILURE(
        LoadDriver(absl::StrCat("i6300esb heartbeat=", kShort), kWatchdogIds, function));
    constexpr char kCardReset[] = "32";  // WDIOF_CARDRESET
    EXPECT_EQ(GUEST(absl::StrCat("cat ", kWatchdog, "bootstatus")), kCardReset);
    GUEST("exec 3> /dev/watchdog; echo V >&3; exec 3>&-");
    EXPECT_EQ(GUEST(absl::StrCat("cat ", kWatchdog, "state")), "inactive");
    GUEST(absl::StrCat("sleep ", 2 * kShort));
    EXPECT_EQ(Expirations(), 1u) << guest_->vm().log();
  }
  {
    SCOPED_TRACE("a panic");
    ASSERT_NO_FATAL_FAILURE(LoadDriver("pvpanic-pci", kPvpanicIds, function));
    EXPECT_EQ(GUEST(absl::StrCat("cat ", function, "/capability ", function, "/events")), "3\n3");
    ASSERT_NO_FATAL_FAILURE(KillProcess("pvpanic"));
    EXPECT_EQ(Reports(v1::GuestReport::PANICKED), 0u);
    ASSERT_TRUE(guest_->vm().Type("echo c > /proc/sysrq-trigger\n").ok());
    const absl::StatusOr<ExitInfo> exit = guest_->vm().WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status() << "\n" << guest_->vm().log();
    EXPECT_EQ(exit->ToString(), "exit code 7") << guest_->vm().log();
    EXPECT_THAT(guest_->vm().log(),
                HasSubstr("the VM ended: guest panic: the guest's kernel has crashed"));
  }
}

}  // namespace
}  // namespace bulkhead::integration
