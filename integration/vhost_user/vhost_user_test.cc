// Disks whose back ends are other programs, with the real vmm: qemu-storage-daemon, and one of the
// tests' that keeps a record of requests in flight. Back ends and device processes die under load.
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/vhost_user/back_ends.h"
#include "integration/vhost_user/qcow_image.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kLong = absl::Seconds(240);
constexpr uint64_t kDiskBytes = 1 << 20;

// A disk of kDiskBytes whose every 8 bytes hold their own offset, as virtio_blk_test wants it.
std::string Pattern() {
  std::string bytes(kDiskBytes, '\0');
  for (uint64_t i = 0; i < kDiskBytes; i += 8) memcpy(&bytes[i], &i, sizeof(i));
  return bytes;
}

class VhostUserTest : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(raw_) << Pattern();
    std::ofstream(qcow_) << QcowOver(raw_, kDiskBytes);
  }
  ~VhostUserTest() override {
    vm_.reset();
    back_end_.reset();
    nbd_server_.reset();
    for (const std::string& file : {raw_, qcow_, socket_, nbd_, config_}) unlink(file.c_str());
  }

  // Starts a program, and waits until it has made its socket.
  static void StartAndAwait(std::unique_ptr<ChildProcess>& process, const std::string& socket,
                            const std::vector<std::string>& command) {
    absl::StatusOr<std::unique_ptr<ChildProcess>> started = ChildProcess::Start(command, {});
    ASSERT_TRUE(started.ok()) << started.status();
    process = *std::move(started);
    for (int i = 0; i < 2000 && access(socket.c_str(), F_OK) != 0; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
  }
  void StartBackEnd(const std::vector<std::string>& command) {
    StartAndAwait(back_end_, socket_, command);
  }
  void StartStorageDaemon(const std::string& image, const std::string& format) {
    StartBackEnd({kStorageDaemon, "--blockdev",
                  absl::StrCat("file,node-name=file,filename=", image), "--blockdev",
                  absl::StrCat(format, ",node-name=disk,file=file"), "--export",
                  absl::StrCat("vhost-user-blk,id=disk,addr.type=unix,addr.path=", socket_,
                               ",node-name=disk,writable=on")});
  }
  // A disk that a server of NBD has: another daemon, started by StartNbdServer().
  void StartStorageDaemonOfNbd() {
    StartBackEnd({kStorageDaemon, "--blockdev",
                  absl::StrCat("nbd,node-name=disk,server.type=unix,server.path=", nbd_,
                               ",export=disk,reconnect-delay=60"),
                  "--export",
                  absl::StrCat("vhost-user-blk,id=disk,addr.type=unix,addr.path=", socket_,
                               ",node-name=disk,writable=on")});
  }
  void StartNbdServer() {
    unlink(nbd_.c_str());
    StartAndAwait(
        nbd_server_, nbd_,
        {kStorageDaemon, "--blockdev", absl::StrCat("file,node-name=file,filename=", raw_),
         "--nbd-server", absl::StrCat("addr.type=unix,addr.path=", nbd_), "--export",
         "nbd,id=disk,name=disk,node-name=file,writable=on"});
  }
  void StartBlockBackEnd() {
    StartBackEnd({DataFile("devices/vhost_user/testing/block_back_end"), socket_, raw_});
  }
  // As kill -9 does it.
  void KillBackEnd() {
    back_end_.reset();
    unlink(socket_.c_str());
  }
  void StartVm(const std::string& orders, const std::string& device_args = "") {
    std::ofstream(config_) << "memory: \"64M\" on_reset: EXIT cpus: 1 kernel { path: \""
                           << DataFile("kernel_images/baremetal/guest.elf")
                           << "\" cmdline: \"run=" << orders << "\" }\n"
                           << "devices { name: \"console\" binary: \"uart16550\" resources { "
                           << "name: \"console\" console { standard_streams: true } } }\n"
                           << "devices { name: \"disk\" binary: \"vhost_user\" " << device_args
                           << "\n"
                           << "restart { max_crashes: -1 min_backoff: \"0\" max_backoff: \"0\" }\n"
                           << "resources { name: \"back_end\" unix_socket { path: \"" << socket_
                           << "\" } } }\n";
    Run({"--config=" + config_});
  }
  // With the disk qcow_, whose back end the vmm starts.
  void StartVmWithQcowDisk(const std::string& orders) {
    Run({"--memory=64M", "--console=stdio",
         "--kernel=" + DataFile("kernel_images/baremetal/guest.elf"), "--cmdline=run=" + orders,
         "--disk=name=disk,restart=always,path=" + qcow_ + ",backing=" + raw_});
  }
  void Run(std::vector<std::string> args) {
    args.push_back("--control=" + socket_ + ".vm");
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(args);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }
  // The processes of the vmm's back end; kills them.
  static int KillOwnBackEnds(const std::string& image) {
    int killed = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      pid_t process = 0;
      if (!absl::SimpleAtoi(entry.path().filename().string(), &process)) continue;
      std::ifstream file(entry.path() / "cmdline", std::ios::binary);
      const std::string command((std::istreambuf_iterator<char>(file)), {});
      if (!absl::StartsWith(command, kStorageDaemon) || !absl::StrContains(command, image))
        continue;
      if (kill(process, SIGKILL) == 0) ++killed;
    }
    return killed;
  }
  void ExpectGoodEnd() {
    const absl::StatusOr<std::string> end = vm_->WaitForOutput("BULKHEAD-", kLong);
    ASSERT_TRUE(end.ok()) << end.status() << vm_->log();
    const absl::StatusOr<std::string> verdict = vm_->WaitForOutput("\n", kLong);
    ASSERT_TRUE(verdict.ok()) << verdict.status();
    EXPECT_THAT(*verdict, HasSubstr("PASS")) << vm_->output() << vm_->log();
  }
  // The log is there, and says so of dead processes, but not of lost requests.
  void ExpectNothingLost() {
    EXPECT_THAT(vm_->log(), HasSubstr("by signal 9"));
    EXPECT_THAT(vm_->log(), Not(HasSubstr("must reset")));
  }
  // The name of the metric to its value; -1: there is none.
  double Metric(const std::string& name) {
    const absl::StatusOr<v1::VmMetrics> metrics = client_.GetMetrics();
    if (!metrics.ok()) return -1;
    for (const v1::MetricFamily& family : metrics->families()) {
      if (!absl::EndsWith(family.name(), name) || family.samples().empty()) continue;
      return family.samples(0).value();
    }
    return -1;
  }
  bool Await(const std::string& metric, double value) {
    for (int i = 0; i < 600 && Metric(metric) != value; ++i)
      absl::SleepFor(absl::Milliseconds(100));
    return Metric(metric) == value;
  }
  void KillDevice() {
    const pid_t process = client_.PidOf("disk");
    ASSERT_GT(process, 0);
    kill(process, SIGKILL);
    for (int i = 0; i < 600; ++i) {
      const pid_t next = client_.PidOf("disk");
      if (next > 0 && next != process) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "no successor" << vm_->log();
  }

  void KillHelper(const std::string& name) {
    const pid_t process = vm_->HelperPid(name);
    ASSERT_EQ(kill(process, SIGKILL), 0) << name;
    for (int i = 0; i < 600; ++i) {
      const pid_t next = vm_->HelperPid(name);
      if (next != kNoProcess && next != process) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "no successor of " << name << vm_->log();
  }

  const std::string folder_ = absl::StrCat("/tmp/vhost_user_test_", getpid());
  const std::string raw_ = folder_ + ".img";
  const std::string qcow_ = folder_ + ".qcow2";
  const std::string socket_ = folder_ + ".sock";
  const std::string nbd_ = folder_ + ".nbd";
  const std::string config_ = folder_ + ".textproto";
  const VmClient client_{socket_ + ".vm"};
  std::unique_ptr<ChildProcess> nbd_server_;
  std::unique_ptr<ChildProcess> back_end_;
  std::unique_ptr<VmProcess> vm_;
};

constexpr char kStorm[] = "disk_storm depth=8 patience=600000000000 progress=500 requests=";

constexpr char kRelay[] = "arg: \"--relay\"";

TEST_F(VhostUserTest, ADiskOfTheStorageDaemonWorks) {
  StartStorageDaemon(raw_, "raw");
  StartVm("virtio_blk_test pattern=1 hostile=0 indirect=1 event_index=1");
  ExpectGoodEnd();
}

TEST_F(VhostUserTest, AQcowDiskOverABackingFileWorks) {
  StartStorageDaemon(qcow_, "qcow2");
  StartVm("virtio_blk_test pattern=1 hostile=0");
  ExpectGoodEnd();
  EXPECT_EQ(ReadFile(raw_), Pattern()) << "the backing file is only read";
}

TEST_F(VhostUserTest, ADiskOverNbdWorks) {
  StartNbdServer();
  StartStorageDaemonOfNbd();
  StartVm("virtio_blk_test pattern=1 hostile=0 indirect=1 event_index=1");
  ExpectGoodEnd();
}

// The daemon connects again, and does again what the server had not answered.
TEST_F(VhostUserTest, ADiskOverNbdOutlivesItsServerUnderLoad) {
  StartNbdServer();
  StartStorageDaemonOfNbd();
  StartVm(absl::StrCat(kStorm, 4000));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    nbd_server_.reset();
    StartNbdServer();
  }
  ExpectGoodEnd();
  EXPECT_TRUE(ReadFile(raw_) != Pattern()) << "nothing has reached the server's file";
  EXPECT_THAT(vm_->log(), Not(HasSubstr("must reset")));
}

TEST_F(VhostUserTest, DeviceProcessesThatDieUnderLoadLoseNothing) {
  StartBlockBackEnd();
  StartVm(absl::StrCat(kStorm, 20000));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    KillDevice();
  }
  ExpectGoodEnd();
  ExpectNothingLost();
}

TEST_F(VhostUserTest, ABackEndThatRecordsRequestsMayDieUnderLoad) {
  StartBlockBackEnd();
  StartVm(absl::StrCat(kStorm, 20000));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    KillBackEnd();
    if (i % 3 == 1) KillDevice();
    if (i == 2) absl::SleepFor(absl::Seconds(5));
    StartBlockBackEnd();
  }
  ExpectGoodEnd();
  ExpectNothingLost();
}

TEST_F(VhostUserTest, WithRelayTheStorageDaemonMayDieUnderLoad) {
  StartStorageDaemon(qcow_, "qcow2");
  StartVm(absl::StrCat(kStorm, 20000), kRelay);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    if (i % 3 != 2) KillBackEnd();
    if (i % 3 != 0) KillDevice();
    if (i % 3 != 2) StartStorageDaemon(qcow_, "qcow2");
  }
  ExpectGoodEnd();
  ExpectNothingLost();
}

TEST_F(VhostUserTest, TheVmmServesAQcowDisk) {
  StartVmWithQcowDisk("virtio_blk_test pattern=1 hostile=0 indirect=1 event_index=1");
  ExpectGoodEnd();
  EXPECT_EQ(ReadFile(raw_), Pattern()) << "the backing file is only read";
  vm_.reset();
  absl::SleepFor(absl::Seconds(1));
  EXPECT_EQ(KillOwnBackEnds(qcow_), 0) << "it ends with the vmm";
}

TEST_F(VhostUserTest, TheVmmsOwnBackEndMayDieUnderLoad) {
  StartVmWithQcowDisk(absl::StrCat(kStorm, 20000));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    if (i % 3 != 2) {
      EXPECT_EQ(KillOwnBackEnds(qcow_), 1);
    }
    if (i % 3 == 1) KillDevice();
  }
  ExpectGoodEnd();
  EXPECT_THAT(vm_->log(), HasSubstr("qemu-storage-daemon ended by signal 9"));
  ExpectNothingLost();
}

TEST_F(VhostUserTest, TheVmmsSideProcessesMayDieUnderLoad) {
  StartVmWithQcowDisk(absl::StrCat(kStorm, 20000));
  for (int i = 0; i < 9; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    // The daemon ends with what has started it.
    if (i % 3 != 0) KillHelper("vmm-back-end");
    if (i % 3 != 1) KillHelper("vmm-connector");
    // Then the next connection needs the next connector.
    if (i % 3 == 0) KillDevice();
  }
  ExpectGoodEnd();
  ExpectNothingLost();
  EXPECT_THAT(vm_->log(), HasSubstr("the process vmm-connector ended by signal 9"));
  EXPECT_THAT(vm_->log(), HasSubstr("the process vmm-back-end ended by signal 9"));
}

// The daemon keeps the image's tables in its own memory. Each write is to a new cluster, most
// likely.
TEST_F(VhostUserTest, TheVmmsOwnBackEndLosesNoWriteThatTheGuestHasNotFlushed) {
  constexpr uint64_t kBytes = 16 << 20;
  std::ofstream(raw_) << std::string(kBytes, '\0');
  std::ofstream(qcow_) << QcowOver(raw_, kBytes);
  StartVmWithQcowDisk(
      "disk_storm depth=8 blocks=4096 patience=600000000000 progress=40 requests=3000");
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
    EXPECT_EQ(KillOwnBackEnds(qcow_), 1);
  }
  ExpectGoodEnd();
}

TEST_F(VhostUserTest, ABackingFileThatWasNotGivenIsNotFound) {
  Run({"--memory=64M", "--console=none",
       "--kernel=" + DataFile("kernel_images/baremetal/guest.elf"), "--disk=path=" + qcow_});
  EXPECT_TRUE(vm_->WaitForLog("Could not open backing file", kLong).ok()) << vm_->log();
  const absl::StatusOr<ExitInfo> end = vm_->WaitForExit(kLong);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_NE(end->code, 0);
}

TEST_F(VhostUserTest, WithRelayADiskOfTheStorageDaemonWorks) {
  StartStorageDaemon(raw_, "raw");
  StartVm("virtio_blk_test pattern=1 hostile=0 indirect=1 event_index=1", kRelay);
  ExpectGoodEnd();
}

TEST_F(VhostUserTest, ABackEndThatStandsStillForSomeSecondsIsWaitedFor) {
  StartStorageDaemon(raw_, "raw");
  StartVm(absl::StrCat(kStorm, 5000));
  ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
  ASSERT_TRUE(back_end_->Signal(SIGSTOP).ok());
  absl::SleepFor(absl::Seconds(4));
  ASSERT_TRUE(back_end_->Signal(SIGCONT).ok());
  ExpectGoodEnd();
}

TEST_F(VhostUserTest, RequestsLostWithABackEndAreToldToTheDriver) {
  StartStorageDaemon(raw_, "raw");
  StartVm("disk_storm depth=8 until_key=1 patience=3000000000000 progress=500");
  ASSERT_TRUE(vm_->WaitForOutput("progress", kLong).ok()) << vm_->output() << vm_->log();
  KillBackEnd();
  EXPECT_TRUE(Await("back_end_connected", 0));
  StartStorageDaemon(raw_, "raw");
  ASSERT_TRUE(vm_->WaitForLog("the driver must reset the device", kLong).ok()) << vm_->log();
  EXPECT_TRUE(Await("back_end_connected", 1));
  EXPECT_EQ(Metric("queues_served"), 0);
  EXPECT_GT(client_.PidOf("disk"), 0) << "the device serves on";
}

// Later than other devices may take to start.
TEST_F(VhostUserTest, TheFirstBackEndMayComeLate) {
  StartVm("virtio_blk_test pattern=1 hostile=0");
  ASSERT_TRUE(vm_->WaitForLog("the back end does not serve yet", kLong).ok()) << vm_->log();
  absl::SleepFor(absl::Seconds(12));
  StartStorageDaemon(raw_, "raw");
  ExpectGoodEnd();
}

TEST_F(VhostUserTest, ASignalEndsTheWaitForTheFirstBackEnd) {
  StartVm("idle");
  ASSERT_TRUE(vm_->WaitForLog("the back end does not serve yet", kLong).ok()) << vm_->log();
  ASSERT_TRUE(vm_->Signal(SIGTERM).ok());
  ASSERT_TRUE(vm_->WaitForExit(kLong).ok());
  EXPECT_THAT(vm_->log(), Not(HasSubstr("the back end does not serve:")))
      << "it has not waited to the end";
}

TEST_F(VhostUserTest, WithoutABackEndTheVmDoesNotStartAndSaysWhy) {
  StartVm("idle");
  EXPECT_TRUE(vm_->WaitForLog("cannot connect: No such file or directory", kLong).ok());
  const absl::StatusOr<ExitInfo> end = vm_->WaitForExit(kLong);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_NE(end->code, 0);
}

}  // namespace
}  // namespace bulkhead::integration
