// An image of tools/make_image --cloud-init, as somebody uses it: it boots from its disk alone,
// lets in by ssh whom --ssh-key names, upgrades its kernel, reboots and powers off.
//
// usage: debian_image_test IMAGE [PACKAGES] [--deaths=N]
//   IMAGE     stays as it is
//   PACKAGES  an image of tools/make_image --from FOLDER, with the packages of another kernel
//   --deaths  so many processes of devices are killed while fio checks the disk and a connection of
//             ssh counts, and then all devices are upgraded; needs an image with fio

#include <signal.h>
#include <stdint.h>
#include <stdio.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

// Where KVM is emulated, what takes seconds elsewhere takes minutes.
constexpr absl::Duration kSlowly = absl::Minutes(25);
constexpr char kDevice[] = "cloud-init";
constexpr char kHostname[] = "ship";

std::string image;
std::string packages;
int deaths = 0;
// A device may end four times a minute (the fifth end within one would be one too many).
constexpr absl::Duration kBetweenDeaths = absl::Milliseconds(3500);

class DebianImageTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    ASSERT_NE(image, "") << "usage: debian_image_test IMAGE [PACKAGES]";
    // For passt, which needs a way out.
    ASSERT_EQ(EnterNetworkNamespace(), "");
    OutputOf(
        "ip link set lo up && ip tuntap add uplink mode tap && ip addr add 10.88.0.2/24 dev uplink "
        "&& ip link set uplink up && ip route add default via 10.88.0.1 dev uplink");
  }

  // A copy with systemd's patience of a slow host: its own, 90 s, is too short where KVM is
  // emulated.
  static void CopyImage() {
    OutputOf(absl::StrCat("cp --sparse=always ", image, " ", TempPath("debian.raw")));
    const std::string patience = WriteTempFile(
        "slow.conf", "[Manager]\nDefaultTimeoutStartSec=1h\nDefaultDeviceTimeoutSec=1h\n");
    const std::string folder = "/etc/systemd/system.conf.d";
    const std::string script = WriteTempFile(
        "script",
        absl::StrCat("mkdir ", folder, "\nwrite ", patience, " ", folder, "/slow.conf\n"));
    // Its partition begins at 1 MiB.
    OutputOf(absl::StrCat("/usr/sbin/debugfs -w -f ", script, " '", TempPath("debian.raw"),
                          "?offset=1048576'"));
  }

  void Start() {
    CopyImage();
    OutputOf(absl::StrCat("ssh-keygen -q -t ed25519 -N '' -f ", TempPath("key")));
    std::vector<std::string> flags = {"--name=image",
                                      "--memory=1G",
                                      "--rng",
                                      "--net=user,forward=8022:22",
                                      absl::StrCat("--disk=path=", TempPath("debian.raw")),
                                      absl::StrCat("--ssh-key=", TempPath("key.pub")),
                                      absl::StrCat("--hostname=", kHostname)};
    if (!packages.empty()) flags.push_back(absl::StrCat("--disk=path=", packages, ",readonly"));
    start_ = absl::Now();
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }

  // Runs a command as the user that the image has for it.
  CommandResult TrySsh(const std::string& command) const {
    return RunCommand(absl::StrCat(
        "ssh -i ", TempPath("key"), " -p 8022 -o BatchMode=yes -o StrictHostKeyChecking=no ",
        "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=120 ",
        "-o ServerAliveInterval=0 debian@127.0.0.1 '", command, "'"));
  }
  std::string Ssh(const std::string& command) const {
    const CommandResult result = TrySsh(command);
    EXPECT_EQ(result.exit_code, 0) << command << "\n" << result.output;
    return std::string(absl::StripSuffix(result.output, "\n"));
  }

  // Until ssh works and systemd has started everything. `than`: the boot before.
  void AwaitSystem(const std::string& than) {
    const absl::Status prompt = vm_->WaitForOutput("login: ", kSlowly).status();
    ASSERT_TRUE(prompt.ok()) << prompt << vm_->log() << vm_->output();
    Report("login prompt");
    const absl::Time deadline = absl::Now() + kSlowly;
    CommandResult boot;
    do {
      boot = TrySsh("cat /proc/sys/kernel/random/boot_id");
    } while ((boot.exit_code != 0 || boot.output == than) && absl::Now() < deadline);
    ASSERT_EQ(boot.exit_code, 0) << boot.output << vm_->log() << vm_->output();
    boot_ = boot.output;
    Report("ssh");
    const CommandResult running = TrySsh("sudo systemctl is-system-running --wait");
    EXPECT_EQ(running.output, "running\n") << Ssh("systemctl --failed; sudo journalctl -b -p err");
    Report("system is running");
  }

  // What the guest does all the time, as root; and what it says when something is wrong.
  static std::string Load() {
    return "cd /var/tmp; while [ ! -e /tmp/stop ]; do "
           "fio --name=day --filename=/var/tmp/day --size=8m --bs=4k --rw=randwrite --iodepth=8 "
           "--ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --output=/tmp/fio "
           "|| cat /tmp/fio >> /tmp/errors; echo round >> /tmp/rounds; done; touch /tmp/stopped";
  }
  // Devices die under load, one after the other; then all get new programs.
  void LiveADay(const VmClient& client) {
    Ssh(absl::StrCat("echo ", absl::Base64Escape(Load()), " | base64 -d > /tmp/load.sh"));
    Ssh("sudo sh -c \"nohup sh /tmp/load.sh > /dev/null 2>&1 &\"");
    const std::string counted = TempPath("counted");
    std::thread connection([&] {
      const CommandResult result =
          TrySsh("i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.1; done");
      EXPECT_EQ(result.exit_code, 0);
      std::string expected;
      int numbers = 0;
      while (expected.size() < result.output.size()) absl::StrAppend(&expected, ++numbers, "\n");
      EXPECT_EQ(result.output, expected) << "the connection has lost or repeated something";
      printf("%d numbers over one connection\n", numbers);
    });
    const std::vector<std::string> devices = {"disk0", "net0", "rng0", "console", kDevice};
    for (int i = 0; i < deaths; ++i) {
      const std::string& device = devices[i % devices.size()];
      EXPECT_TRUE(client.KillProcessOf(device)) << device;
      absl::SleepFor(kBetweenDeaths);
    }
    Report(absl::StrCat(deaths, " processes of devices have died"));
    printf("%s",
           OutputOf(absl::StrCat(DataFile("tools/vmctl/vmctl"), " --vm=image upgrade")).c_str());
    Report("all devices run the installed programs");
    Ssh("touch /tmp/stop");
    connection.join();
    Ssh("while [ ! -e /tmp/stopped ]; do sleep 1; done");
    EXPECT_EQ(Ssh("cat /tmp/errors 2>/dev/null || true"), "");
    printf("%s rounds of fio\n", Ssh("grep -c round /tmp/rounds").c_str());
    EXPECT_EQ(Ssh("sudo dmesg --level=emerg,alert,crit,err"), "");
    for (const std::string& device : devices) {
      const absl::StatusOr<v1::Device> now = client.GetDevice(device);
      ASSERT_TRUE(now.ok()) << now.status();
      EXPECT_EQ(now->state(), v1::Device::RUNNING) << device << ": " << now->state_reason();
    }
  }

  void Report(const std::string& what) const {
    printf("%6.0f s  %s\n", absl::ToDoubleSeconds(absl::Now() - start_), what.c_str());
  }

  std::unique_ptr<VmProcess> vm_;
  absl::Time start_;
  std::string boot_;
};

TEST_F(DebianImageTest, BootsLetsInByKeyUpgradesItsKernelAndPowersOff) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(AwaitSystem(""));
  EXPECT_EQ(Ssh("hostname"), kHostname);
  EXPECT_THAT(Ssh("cloud-init status"), HasSubstr("status: done"));
  EXPECT_THAT(Ssh("cloud-init query subplatform"), HasSubstr("/dev/vd"));
  EXPECT_EQ(Ssh("sudo id -u"), "0");
  const std::string kernel = Ssh("uname -r");
  printf("%s\n", kernel.c_str());

  const VmClient client(ControlSocketOf("image"));
  const std::string sum =
      "sudo dd if=/dev/disk/by-label/CIDATA iflag=direct bs=32k status=none "
      "| sha256sum";
  const std::string before = Ssh(sum);
  ASSERT_TRUE(client.KillProcessOf(kDevice));
  EXPECT_EQ(Ssh(sum), before);
  EXPECT_EQ(client.GenerationOf(kDevice), 2u);

  if (deaths > 0) {
    ASSERT_NO_FATAL_FAILURE(LiveADay(client));
  }

  if (!packages.empty()) {
    // The image and the packages are of make_image, with the same label.
    printf("%s\n", Ssh("sudo mount -o ro /dev/vdb1 /mnt && sudo dpkg -i /mnt/*.deb 2>&1 && "
                       "sudo umount /mnt")
                       .c_str());
    Report("another kernel is installed");
  }
  const std::string first_boot = boot_;
  (void)TrySsh("sudo systemctl reboot");  // may be cut off
  ASSERT_NO_FATAL_FAILURE(AwaitSystem(first_boot));
  printf("%s\n", Ssh("uname -r").c_str());
  EXPECT_EQ(Ssh("uname -r") == kernel, packages.empty());
  EXPECT_EQ(Ssh("hostname"), kHostname);
  (void)TrySsh("sudo systemctl poweroff");
  const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kSlowly);
  ASSERT_TRUE(exit.ok()) << exit.status() << vm_->log() << vm_->output();
  EXPECT_EQ(exit->ToString(), "exit code 0") << vm_->log();
  Report("powered off");
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view word = argv[i];
    if (absl::ConsumePrefix(&word, "--deaths=")) {
      if (!absl::SimpleAtoi(word, &bulkhead::integration::deaths)) return 2;
    } else {
      (bulkhead::integration::image.empty() ? bulkhead::integration::image
                                            : bulkhead::integration::packages) = argv[i];
    }
  }
  return RUN_ALL_TESTS();
}
