// An image of tools/make_image --cloud-init, as somebody uses it: it boots from its disk alone,
// lets in by ssh whom --ssh-key names, over passt and over a TAP, gets packages through a proxy on
// the host's loopback, upgrades its kernel, reboots and powers off. Needs tinyproxy and
// dpkg-scanpackages.
//
// usage: debian_image_test IMAGE [PACKAGES] [--deaths=N] [--no-reboot]
//   IMAGE     is not changed
//   PACKAGES  a folder with the package of a newer kernel: *.deb
//   --deaths  so many processes of devices are killed while fio checks the disk and a connection of
//             ssh counts, and then all devices are upgraded; needs an image with fio

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
#include "base/testing/child_process.h"
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

// Where ssh finds the guest.
constexpr char kByUserNet[] = "-p 8022 debian@127.0.0.1";
constexpr char kByTap[] = "debian@10.77.0.2";
// No DHCP server answers on the TAP.
constexpr char kNetworkConfig[] = R"(version: 2
ethernets:
  first:
    match: {macaddress: "02:00:00:00:00:01"}
    set-name: user0
    dhcp4: true
  second:
    match: {macaddress: "02:00:00:00:00:02"}
    set-name: tap0
    addresses: [10.77.0.2/24]
)";

std::string image;
std::string packages;
int deaths = 0;
bool reboots = true;
// A device may end four times a minute (the fifth end within one would be one too many).
constexpr absl::Duration kBetweenDeaths = absl::Milliseconds(3500);

class DebianImageTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    ASSERT_NE(image, "") << "usage: debian_image_test IMAGE [PACKAGES]";
    ASSERT_EQ(EnterNetworkNamespace(), "");
    // The default route is for passt, which does not start without one.
    OutputOf(
        "ip link set lo up && ip tuntap add uplink mode tap && ip addr add 10.88.0.2/24 dev uplink "
        "&& ip link set uplink up && ip route add default via 10.88.0.1 dev uplink "
        "&& ip tuntap add vmtap mode tap && ip addr add 10.77.0.1/24 dev vmtap "
        "&& ip link set vmtap up");
  }

  // A repository of Debian packages on the host's loopback, and a proxy that leads to it.
  void ServePackages() {
    const std::string folder = TempPath("repository");
    const std::string control =
        "Package: greeting\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t.test>\n"
        "Description: a file\n";
    OutputOf(absl::StrCat("mkdir -p ", folder, " ", TempPath("greeting/DEBIAN"), " ",
                          TempPath("greeting/opt"), " && echo '", control, "' > ",
                          TempPath("greeting/DEBIAN/control"), " && echo ahoy > ",
                          TempPath("greeting/opt/greeting"), " && dpkg-deb --build ",
                          TempPath("greeting"), " ", folder));
    if (!packages.empty()) OutputOf(absl::StrCat("cp ", packages, "/*.deb ", folder));
    OutputOf(absl::StrCat("cd ", folder, " && dpkg-scanpackages . > Packages 2> ../scan.log"));
    const std::string config = WriteTempFile(
        "tinyproxy.conf", "Port 3128\nListen 127.0.0.1\nTimeout 3600\nLogLevel Error\n");
    const std::vector<std::vector<std::string>> servers = {
        {"/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder,
         "8000"},
        {"/usr/bin/tinyproxy", "-d", "-c", config}};
    for (const std::vector<std::string>& command : servers) {
      absl::StatusOr<std::unique_ptr<ChildProcess>> server =
          ChildProcess::Start(command, {"PATH=/usr/bin"});
      ASSERT_TRUE(server.ok()) << server.status();
      servers_.push_back(*std::move(server));
    }
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
    ASSERT_NO_FATAL_FAILURE(ServePackages());
    CopyImage();
    OutputOf(absl::StrCat("ssh-keygen -q -t ed25519 -N '' -f ", TempPath("key")));
    const std::vector<std::string> flags = {
        "--name=image",
        "--memory=1G",
        "--rng",
        "--net=user,forward=8022:22,host-loopback,"
        "mac=02:00:00:00:00:01",
        "--net=tap=vmtap,mac=02:00:00:00:00:02",
        absl::StrCat("--disk=path=", TempPath("debian.raw")),
        absl::StrCat("--ssh-key=", TempPath("key.pub")),
        absl::StrCat("--hostname=", kHostname),
        absl::StrCat("--cloud-init=network-config=",
                     WriteTempFile("network.yaml", kNetworkConfig))};
    start_ = absl::Now();
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }

  // Runs a command as the user that the image has for it.
  static CommandResult TrySsh(const std::string& command, const char* where = kByUserNet) {
    return RunCommand(
        absl::StrCat("ssh -i ", TempPath("key"), " -o BatchMode=yes -o StrictHostKeyChecking=no ",
                     "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=120 ",
                     "-o ServerAliveInterval=0 ", where, " '", command, "'"));
  }
  static std::string Ssh(const std::string& command, const char* where = kByUserNet) {
    const CommandResult result = TrySsh(command, where);
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
    Report("ssh over --net user");
    EXPECT_EQ(Ssh("cat /proc/sys/kernel/random/boot_id", kByTap) + "\n", boot_);
    Report("ssh over --net tap");
    const CommandResult running = TrySsh("sudo systemctl is-system-running --wait");
    EXPECT_EQ(running.output, "running\n") << Ssh("systemctl --failed; sudo journalctl -b -p err");
    Report("system is running");
  }

  // The guest's own 127.0.0.1 has no repository: only the proxy's has.
  void GetPackages() const {
    Ssh("set -- $(ip -4 route show default) && "
        "printf \"Acquire::http::Proxy \\\"http://%s:3128\\\";\\n\" $3 "
        "| sudo tee /etc/apt/apt.conf.d/90proxy && "
        "echo \"deb [trusted=yes] http://127.0.0.1:8000/ ./\" | sudo tee /etc/apt/sources.list");
    const std::string update = Ssh("sudo apt-get -q update");
    EXPECT_THAT(update, HasSubstr("http://127.0.0.1:8000 ./ Packages ["));  // with a size: got
    printf("%s\n", update.c_str());
    Report("apt-get update");
    printf("%s\n", Ssh("sudo apt-get -qy install greeting 2>&1").c_str());
    EXPECT_EQ(Ssh("cat /opt/greeting"), "ahoy");
    Report("apt-get install");
    if (packages.empty()) return;
    const std::string names = OutputOf(absl::StrCat(
        "for file in ", packages, "/*.deb; do dpkg-deb --field $file Package; done | xargs"));
    printf("%s\n", Ssh(absl::StrCat("sudo DEBIAN_FRONTEND=noninteractive apt-get -qy install ",
                                    absl::StripSuffix(names, "\n"), " 2>&1"))
                       .c_str());
    Report("another kernel is installed");
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
    const std::vector<std::string> devices = {"disk0", "net0", "net1", "rng0", "console", kDevice};
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

  std::vector<std::unique_ptr<ChildProcess>> servers_;
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

  ASSERT_NO_FATAL_FAILURE(GetPackages());
  if (reboots) {
    const std::string first_boot = boot_;
    (void)TrySsh("sudo systemctl reboot");  // may be cut off
    ASSERT_NO_FATAL_FAILURE(AwaitSystem(first_boot));
    printf("%s\n", Ssh("uname -r").c_str());
    EXPECT_EQ(Ssh("uname -r") == kernel, packages.empty());
    EXPECT_EQ(Ssh("hostname"), kHostname);
  }
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
    } else if (word == "--no-reboot") {
      bulkhead::integration::reboots = false;
    } else {
      (bulkhead::integration::image.empty() ? bulkhead::integration::image
                                            : bulkhead::integration::packages) = argv[i];
    }
  }
  return RUN_ALL_TESTS();
}
