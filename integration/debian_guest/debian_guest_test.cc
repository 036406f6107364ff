// What an administrator sees of a stock Debian system in a VM: it comes up complete, knows the
// time, suspends, wakes, reboots and powers off.
//
// usage: debian_guest_test [reboot]    (without: one boot)

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/debian_guest/debian_vm.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

std::string InGuest(GuestShell& guest, const std::string& command) {
  const absl::StatusOr<std::string> output = guest.Run(command, kSlowly);
  EXPECT_TRUE(output.ok()) << output.status();
  return output.value_or("");
}

// systemd has started everything, and neither it nor the kernel has anything to complain about.
void ExpectCompleteSystem(GuestShell& guest) {
  // Until then systemd may write on the console, too. Ends with an exit code of its own.
  EXPECT_THAT(InGuest(guest, "systemctl is-system-running --wait || systemctl --failed"),
              EndsWith("running"));
  EXPECT_EQ(InGuest(guest, "systemctl --failed --no-legend --plain"), "");
  EXPECT_EQ(InGuest(guest, "journalctl --boot --priority=err --output=cat --no-pager --quiet"), "");
  EXPECT_EQ(InGuest(guest,
                    "dmesg | grep -wE 'Oops|BUG|WARNING|Call Trace|lockup|stalls?|blocked for|"
                    "invalid opcode' || true"),
            "");
}

// There is no real-time clock: nothing asks for one, since kvmclock tells the time of day.
void ExpectTimeOfDay(GuestShell& guest) {
  double seconds = 0;
  const absl::Time before = absl::Now();
  EXPECT_TRUE(absl::SimpleAtod(InGuest(guest, "date +%s.%N"), &seconds));
  const absl::Time told = absl::UnixEpoch() + absl::Seconds(seconds);
  // It is behind by as long as the guest was held for a device that a busy host kept from
  // answering.
  EXPECT_GE(told, before - absl::Minutes(1));
  EXPECT_LE(told, absl::Now() + absl::Seconds(1));
  EXPECT_EQ(InGuest(guest, "ls /dev/rtc* 2>/dev/null || true"), "");
  EXPECT_EQ(InGuest(guest, "journalctl --boot --no-pager --quiet | grep -i hwclock || true"), "");
}

void SuspendAndWake(GuestShell& guest, const VmClient& client) {
  const std::string count = "cat /sys/power/suspend_stats/success";
  EXPECT_EQ(InGuest(guest, count), "0");
  // This command ends once the system is awake again.
  ASSERT_TRUE(guest.vm().Type("systemctl start systemd-suspend.service; echo AWA''KE\n").ok());
  const absl::Status asleep = guest.vm().WaitForOutput("AWAKE", absl::Seconds(20)).status();
  ASSERT_TRUE(absl::IsDeadlineExceeded(asleep)) << "it does not sleep";
  // A guest that is not asleep yet does not hear it.
  absl::Status awake;
  const absl::Time deadline = absl::Now() + kSlowly;
  do {
    ASSERT_TRUE(client.Wake().ok());
    awake = guest.vm().WaitForOutput("AWAKE", absl::Seconds(20)).status();
  } while (absl::IsDeadlineExceeded(awake) && absl::Now() < deadline);
  ASSERT_TRUE(awake.ok()) << awake;
  EXPECT_EQ(InGuest(guest, count), "1");
}

bool reboots = false;

TEST(DebianGuestTest, BootsToRunningSuspendsWakesRebootsAndPowersOff) {
  const std::string disk = absl::StrCat(::testing::TempDir(), "/debian.img");
  absl::StatusOr<std::unique_ptr<GuestShell>> booted =
      BootDebian(disk, {"--name=debian", "--cpus=2", "--memory=512M", "--rng"});
  ASSERT_TRUE(booted.ok()) << booted.status();
  GuestShell& guest = **booted;
  ExpectCompleteSystem(guest);
  EXPECT_EQ(InGuest(guest, "nproc"), "2");
  EXPECT_EQ(InGuest(guest, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"),
            "kvm-clock");
  EXPECT_EQ(InGuest(guest, "cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
  EXPECT_THAT(InGuest(guest, "findmnt --noheadings --output SOURCE,OPTIONS /"),
              HasSubstr("/dev/vda rw"));
  // udev loads what has an alias among the processor's features: these need AVX in some kernels.
  EXPECT_EQ(InGuest(guest,
                    "modprobe aesni_intel && grep -c '^name.*aes' /proc/crypto > /dev/null; "
                    "echo $?"),
            "0");
  ExpectTimeOfDay(guest);
  ASSERT_NO_FATAL_FAILURE(SuspendAndWake(guest, VmClient(ControlSocketOf("debian"))));
  ExpectTimeOfDay(guest);
  ExpectCompleteSystem(guest);
  const std::string boot_id = InGuest(guest, "cat /proc/sys/kernel/random/boot_id");
  InGuest(guest, "echo kept > /root/file");

  if (reboots) {
    ASSERT_TRUE(guest.vm().Type("reboot\n").ok());
    const absl::Status again = guest.LogIn(kSlowly);
    ASSERT_TRUE(again.ok()) << again;
    EXPECT_NE(InGuest(guest, "cat /proc/sys/kernel/random/boot_id"), boot_id);
    ExpectCompleteSystem(guest);
    EXPECT_EQ(InGuest(guest, "cat /root/file"), "kept");
  }

  ASSERT_TRUE(guest.vm().Type("poweroff\n").ok());
  const absl::StatusOr<ExitInfo> exit = guest.vm().WaitForExit(kSlowly);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
  EXPECT_EQ(std::system(absl::StrCat("/sbin/e2fsck -f -n ", disk).c_str()), 0);
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc > 2 || (argc == 2 && std::string(argv[1]) != "reboot")) {
    std::fprintf(stderr, "usage: debian_guest_test [reboot]\n");
    return 2;
  }
  bulkhead::integration::reboots = argc == 2;
  return RUN_ALL_TESTS();
}
