// A Linux guest whose devices and back ends are away for a while, all of them at once, from seconds
// to minutes: one of each kind, each in use. Afterwards its kernel has noticed nothing, and each
// device works, with the right data.
//
// usage: device_outages_test [DURATION | devices | back-ends]...
// DURATIONs: 1s 30s 120s 600s, if none is given. devices, back-ends: only what is away.
// Prints a table: how long after the outage each device had been checked, one after the other.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/outage/echo_stream.h"
#include "integration/outage/many_devices.h"
#include "integration/vhost_user/back_ends.h"
#include "integration/vsock/host_end.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

// TCP repeats a segment after two minutes at the latest.
constexpr absl::Duration kSlowly = absl::Minutes(5);
// A guest that waits for a device is held after a second, and the host may be busy.
constexpr absl::Duration kUnpaused = absl::Seconds(1);
constexpr absl::Duration kSlack = absl::Seconds(5);
// A back end that is stopped is asked after a second at most, counts as silent after another one,
// which the vmm sees with a heartbeat and holds the guest a second later.
constexpr absl::Duration kUntilHeld = absl::Seconds(4);
constexpr uint32_t kVsockPort = 7;
constexpr uint64_t kMiB = 1 << 20;

std::vector<absl::Duration>& Outages() {
  static auto& outages = *new std::vector<absl::Duration>{absl::Seconds(1), absl::Seconds(30),
                                                          absl::Seconds(120), absl::Seconds(600)};
  return outages;
}

bool& TriesDevices() {
  static bool tries = true;
  return tries;
}
bool& TriesBackEnds() {
  static bool tries = true;
  return tries;
}

bool Await(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + kSlowly;
  while (!condition() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
  return condition();
}

// Not ok(): the guest has refused it.
UniqueFd ConnectByTcp(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, ManyDevices::kGuestAddress, &address.sin_addr);
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int error = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  return error == 0 ? std::move(fd) : UniqueFd();
}

class DeviceOutagesTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(EnterNetworkNamespace(), ""); }

  std::string InGuest(const std::string& command) { return vm_.InGuest(command); }
  // Of a program whose number is in that file.
  void AwaitEndInGuest(const std::string& pid_file) {
    InGuest(absl::StrCat("while kill -0 $(cat ", pid_file, ") 2>/dev/null; do sleep 0.1; done"));
  }
  absl::Duration GuestUptime() {
    double seconds = 0;
    EXPECT_TRUE(absl::SimpleAtod(InGuest("cut -d ' ' -f 1 /proc/uptime"), &seconds));
    return absl::Seconds(seconds);
  }

  // ---- Disks: each byte is checked, and a writer goes by the page cache

  void StartDisk(const std::string& disk) {
    InGuest(absl::StrCat("rm -f /tmp/stop.", disk, "; (diskstorm /dev/", disk,
                         " 1 16 > /tmp/storm.", disk, " 2>&1 & echo $! > /tmp/pid.", disk,
                         "); until [ -s /tmp/storm.", disk, " ]; do sleep 0.1; done"));
    InGuest(absl::StrCat("(while [ ! -e /tmp/stop.", disk, " ]; do ", "dd if=/dev/zero of=/dev/",
                         disk,
                         " bs=4k count=4 seek=1000 conv=fsync,notrunc 2>/tmp/dd || cat /tmp/dd >> "
                         "/tmp/errors.",
                         disk, "; sleep 0.3; done & echo $! > /tmp/pid.dd.", disk, ")"));
  }
  void ExpectDiskWorks(const std::string& disk) {
    InGuest(absl::StrCat("kill $(cat /tmp/pid.", disk, "); touch /tmp/stop.", disk));
    AwaitEndInGuest("/tmp/pid." + disk);
    AwaitEndInGuest("/tmp/pid.dd." + disk);
    EXPECT_THAT(InGuest("tail -n 1 /tmp/storm." + disk), HasSubstr(" failed=0 wrong_bytes=0 "));
    EXPECT_EQ(InGuest(absl::StrCat("cat /tmp/errors.", disk, " 2>/dev/null || true")), "");
  }

  // ---- Shared folders: the guest appends numbers to a file

  void StartShare(int share) {
    const std::string s = absl::StrCat("s", share);
    InGuest(absl::StrCat("rm -f /tmp/stop.", s, " /tmp/errors.", s,
                         "; (i=0; while [ ! -e /tmp/stop.", s,
                         " ]; do i=$((i+1)); echo $i >> /mnt/", s, "/lines", share_files_,
                         " || echo $i >> /tmp/errors.", s, "; echo $i > /tmp/done.", s,
                         "; sleep 0.1; done 2>/dev/null & echo $! > /tmp/pid.", s, ")"));
    InGuest(absl::StrCat("until [ -s /tmp/done.", s, " ]; do sleep 0.1; done"));
  }
  // What is in the file, and how many lines the guest has written.
  std::pair<std::vector<std::string>, int> StopShare(int share) {
    const std::string s = absl::StrCat("s", share);
    InGuest("touch /tmp/stop." + s);
    AwaitEndInGuest("/tmp/pid." + s);
    int written = 0;
    EXPECT_TRUE(absl::SimpleAtoi(InGuest("cat /tmp/done." + s), &written));
    const std::string file = absl::StrCat(vm_.Folder(share), "/lines", share_files_);
    return {absl::StrSplit(ReadFile(file), '\n', absl::SkipEmpty()), written};
  }
  void ExpectShareWorks(int share) {
    const auto [lines, written] = StopShare(share);
    EXPECT_EQ(InGuest(absl::StrCat("cat /tmp/errors.s", share, " 2>/dev/null || true")), "");
    ASSERT_EQ(lines.size(), static_cast<size_t>(written)) << "share" << share;
    for (int i = 0; i < written; ++i) ASSERT_EQ(lines[i], absl::StrCat(i + 1)) << "share" << share;
  }
  // With virtiofsd the guest's mount is lost: errors, and no wrong data. The next mount works.
  void ExpectShareWorksOnceMountedAgain(int share) {
    const std::string s = absl::StrCat("s", share);
    const auto [lines, written] = StopShare(share);
    int last = 0;
    for (const std::string& line : lines) {
      int number = 0;
      ASSERT_TRUE(absl::SimpleAtoi(line, &number)) << line;
      ASSERT_GT(number, last) << "share" << share;
      ASSERT_LE(number, written);
      last = number;
    }
    InGuest(absl::StrCat("umount /mnt/", s, " && mount -t virtiofs ", s, " /mnt/", s));
    EXPECT_EQ(InGuest(absl::StrCat("tail -n 1 /mnt/", s, "/lines", share_files_)), lines.back());
    InGuest(absl::StrCat("echo again > /mnt/", s, "/again", share_files_));
    EXPECT_EQ(ReadFile(absl::StrCat(vm_.Folder(share), "/again", share_files_)), "again\n");
  }

  // ---- Network and vsock: a program of the guest sends back what it gets

  void StartStreams() {
    ++tcp_port_;  // the last one's connection may linger
    InGuest(absl::StrCat(
        "(nc -l -p ", tcp_port_, " -e /bin/busybox cat 2> /dev/null &); until grep -q ':",
        absl::StrFormat("%04X", tcp_port_), " .* 0A' /proc/net/tcp*; do sleep 0.1; done"));
    UniqueFd tcp = ConnectByTcp(tcp_port_);
    ASSERT_TRUE(tcp.ok());
    tcp_ = std::make_unique<EchoStream>(std::move(tcp));
    UniqueFd vsock = ConnectToGuest(vm_.VsockSocket(), kVsockPort);
    ASSERT_TRUE(vsock.ok());
    vsock_ = std::make_unique<EchoStream>(std::move(vsock));
    ExpectProgress(*tcp_, "TCP");
    ExpectProgress(*vsock_, "vsock");
  }
  static void ExpectProgress(const EchoStream& stream, const char* name) {
    const uint64_t before = stream.checked();
    EXPECT_TRUE(Await([&] {
      return stream.checked() > before + 2000 || stream.has_ended() || stream.is_wrong();
    })) << name
        << " hangs after " << before << " bytes";
    EXPECT_FALSE(stream.has_ended()) << name;
    EXPECT_FALSE(stream.is_wrong()) << name;
  }
  // The connection has been reset, and a new one works.
  void ExpectVsockWorksAnew() {
    EXPECT_TRUE(Await([&] { return vsock_->has_ended(); })) << "the vsock connection hangs";
    EXPECT_FALSE(vsock_->is_wrong());
    std::atomic<uint64_t> checked{0};
    // On a slow host the guest may accept the first ones too late.
    EXPECT_TRUE(Await([&] {
      const UniqueFd fd = ConnectToGuest(vm_.VsockSocket(), kVsockPort);
      return fd.ok() && CheckEcho(fd, 20'000, 77, checked);
    })) << "no new vsock connection lasts";
  }

  // ---- The small devices

  void SetUpSmallDevices() {
    // Linux's drivers for these are in no initramfs: as they would, from the shell.
    InGuest(
        "of() { for d in /sys/bus/pci/devices/*; do [ $(cat $d/device) = $1 ] && echo $d; done; }; "
        "bar() { echo 1 > $1/enable; head -n 1 $1/resource | cut -d ' ' -f 1; }; "
        "panic=$(bar $(of 0x0011)); dog=$(of 0x25ab); timer=$(bar $dog); at() { echo $(($timer + "
        "$1)); }; "
        "set_dog() { devmem $(at 12) 16 0x80; devmem $(at 12) 16 0x86; devmem $(at $1) $2 $3; }");
    // Two stages of 500 s: what a guest that runs gets done in that time depends on the host.
    InGuest(
        "set_dog 0 32 500000; set_dog 4 32 500000; set_dog 12 16 0x100; "
        "printf '\\002' | dd of=$dog/config bs=1 seek=104 conv=notrunc 2>/dev/null");
    InGuest(
        "(while [ ! -e /tmp/stop.dog ]; do set_dog 12 16 0x100; sleep 1; done & "
        "echo $! > /tmp/pid.dog)");
  }
  int Reports(v1::GuestReport::Kind kind) {
    int count = 0;
    const absl::StatusOr<std::vector<v1::Event>> events = vm_.client().PastEvents();
    EXPECT_TRUE(events.ok()) << events.status();
    for (const v1::Event& event : events.value_or(std::vector<v1::Event>())) {
      count += event.has_guest_report() && event.guest_report().kind() == kind;
    }
    return count;
  }
  void ExpectPvpanicWorks() {
    const int before = Reports(v1::GuestReport::CRASH_LOADED);
    InGuest("devmem $panic 8 2");
    EXPECT_TRUE(Await([&] { return Reports(v1::GuestReport::CRASH_LOADED) == before + 1; }));
  }
  void ExpectBalloonReaches(uint64_t bytes) {
    EXPECT_TRUE(Await([&] {
      const absl::StatusOr<v1::Balloon> balloon = vm_.client().GetBalloon();
      return balloon.ok() && balloon->actual_bytes() == bytes;
    }));
  }

  // ---- The two kinds of outage

  // The first process of a device is replaced at once, the second one only when asked.
  void KillTwice(const std::string& device) {
    const pid_t first = vm_.client().PidOf(device);
    ASSERT_EQ(kill(first, SIGKILL), 0) << device;
    pid_t second = kNoProcess;
    EXPECT_TRUE(Await([&] {
      // One answer has both: in two, a dying process could look like its successor.
      const absl::StatusOr<v1::Device> now = vm_.client().GetDevice(device);
      if (!now.ok() || now->state() != v1::Device::RUNNING || now->pid() == first) return false;
      second = now->pid();
      return true;
    })) << device
        << " has no successor";
    ASSERT_EQ(kill(second, SIGKILL), 0) << device;
  }

  // No device has a process; and the guest, which waits for them, stands still.
  void TryDeadDevices(absl::Duration outage) {
    for (const char* disk : {"vda", "vdb", "vdc"}) StartDisk(disk);
    for (const int share : {0, 1}) StartShare(share);
    ASSERT_NO_FATAL_FAILURE(StartStreams());
    const absl::Duration uptime = GuestUptime();
    const absl::Time start = absl::Now();
    for (const std::string& device : ManyDevices::Names()) {
      ASSERT_NO_FATAL_FAILURE(KillTwice(device));
    }
    const absl::Time dead = absl::Now();
    const uint64_t balloon = ++balloon_mib_ * kMiB;
    EXPECT_TRUE(vm_.client().SetBalloon(balloon).ok());
    absl::SleepFor(outage);
    for (const std::string& device : ManyDevices::Names()) {
      const absl::StatusOr<v1::Device> state = vm_.client().GetDevice(device);
      ASSERT_TRUE(state.ok()) << state.status();
      EXPECT_EQ(state->state(), v1::Device::RESTARTING) << device << " is not away";
    }
    end_ = absl::Now();
    for (const std::string& device : ManyDevices::Names()) {
      const absl::StatusOr<v1::Device> back = vm_.client().RestartDevice(device);
      EXPECT_TRUE(back.ok()) << device << ": " << back.status();
    }
    Check("console", [&] { EXPECT_EQ(InGuest("echo here"), "here"); });
    const absl::Duration guest_time = GuestUptime() - uptime;
    EXPECT_LT(guest_time, absl::Now() - start - (end_ - dead) + kUnpaused + kSlack)
        << "the guest's clock went on during the outage";
    Check("net (TAP)", [&] { ExpectProgress(*tcp_, "TCP"); });
    Check("vsock", [&] { ExpectVsockWorksAnew(); });
    Check("entropy",
          [&] { EXPECT_EQ(InGuest("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c"), "64"); });
    Check("balloon", [&] { ExpectBalloonReaches(balloon); });
    Check("pvpanic", [&] { ExpectPvpanicWorks(); });
    Check("i6300esb", [&] { EXPECT_EQ(Reports(v1::GuestReport::WATCHDOG_EXPIRED), 0); });
    Check("disk, raw", [&] { ExpectDiskWorks("vda"); });
    Check("disk, qcow2", [&] { ExpectDiskWorks("vdb"); });
    Check("disk, vhost-user socket", [&] { ExpectDiskWorks("vdc"); });
    Check("shared folder", [&] {
      ExpectShareWorks(0);
      ExpectShareWorks(1);
    });
    EndRound("without devices");
  }

  // The programs behind the devices are stopped, then others dead; the guest is held meanwhile,
  // too.
  void TryBackEnds(absl::Duration outage) {
    for (const char* disk : {"vdb", "vdc"}) StartDisk(disk);
    for (const int share : {0, 1}) StartShare(share);
    ASSERT_NO_FATAL_FAILURE(StartStreams());
    const pid_t daemon = ProcessOf(kStorageDaemon, vm_.Image(1));
    const pid_t virtiofsd = ProcessOf(VirtiofsdPath(), vm_.Folder(0));
    const pid_t dead_virtiofsd = ProcessOf(VirtiofsdPath(), vm_.Folder(1));
    const pid_t supervisor = ParentOf(dead_virtiofsd);
    const absl::Duration uptime = GuestUptime();
    const absl::Time start = absl::Now();
    for (const pid_t process : {daemon, virtiofsd}) ASSERT_EQ(kill(process, SIGSTOP), 0) << process;
    absl::SleepFor(outage);
    for (const pid_t process : {daemon, virtiofsd}) ASSERT_EQ(kill(process, SIGCONT), 0) << process;
    InGuest("true");
    // Nobody starts that one again meanwhile.
    ASSERT_EQ(kill(supervisor, SIGSTOP), 0);
    ASSERT_EQ(kill(dead_virtiofsd, SIGKILL), 0);
    vm_.KillStorageDaemon();
    absl::SleepFor(outage);
    end_ = absl::Now();
    ASSERT_EQ(kill(supervisor, SIGCONT), 0);
    vm_.StartStorageDaemon();
    InGuest("true");
    const absl::Duration guest_time = GuestUptime() - uptime;
    EXPECT_LT(guest_time, absl::Now() - start - 2 * outage + 2 * kUntilHeld + kSlack)
        << "the guest's clock went on during an outage";
    Check("disk, qcow2: qemu-storage-daemon, stopped", [&] { ExpectDiskWorks("vdb"); });
    Check("disk, vhost-user socket: qemu-storage-daemon, dead", [&] { ExpectDiskWorks("vdc"); });
    Check("shared folder: virtiofsd, stopped", [&] { ExpectShareWorks(0); });
    Check("shared folder: virtiofsd, dead (mounted again)",
          [&] { ExpectShareWorksOnceMountedAgain(1); });
    ExpectProgress(*tcp_, "TCP");
    ExpectProgress(*vsock_, "vsock");
    EndRound("without back ends");
  }

  // One cell of the table.
  void Check(const std::string& row, const std::function<void()>& works) {
    SCOPED_TRACE(row);
    const auto problems = [] {
      return testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count();
    };
    const int before = problems();
    works();
    const absl::Duration passed = absl::Now() - end_;
    std::string& line = table_[row];
    if (line.empty()) rows_.push_back(row);
    absl::StrAppend(&line, problems() == before ? " works, " : " FAILED, ",
                    absl::StrFormat("%.0f s", absl::ToDoubleSeconds(passed)), " |");
  }

  // `away`: for the table.
  void EndRound(const std::string& away) {
    tcp_.reset();
    vsock_.reset();
    Check("the guest's kernel, " + away, [&] {
      EXPECT_EQ(InGuest("dmesg | grep -wE 'lockup|stalls?|blocked for more|Call Trace' || true"),
                "");
      EXPECT_EQ(vm_.guest().KernelErrors().value_or("unknown"), "");
    });
    InGuest("dmesg -c > /dev/null");
    EXPECT_EQ(Reports(v1::GuestReport::WATCHDOG_EXPIRED), 0);
    ++share_files_;
    PrintTable();
  }

  void PrintTable() const {
    for (const std::string& row : rows_)
      std::printf("| %s |%s\n", row.c_str(), table_.at(row).c_str());
    std::fflush(stdout);
  }

  ManyDevices vm_{MakeTempFolder()};
  std::unique_ptr<EchoStream> tcp_;
  std::unique_ptr<EchoStream> vsock_;
  uint16_t tcp_port_ = 5000;
  int share_files_ = 0;
  uint64_t balloon_mib_ = 0;
  absl::Time end_;
  std::vector<std::string> rows_;
  std::map<std::string, std::string> table_;
};

TEST_F(DeviceOutagesTest, EachDeviceWorksAfterwardsAndTheGuestsWatchdogsAreSilent) {
  ASSERT_NO_FATAL_FAILURE(vm_.Boot());
  SetUpSmallDevices();
  InGuest(absl::StrCat("(vsock serve ", kVsockPort, " > /tmp/vsock 2>&1 &); ",
                       "until grep -q running /tmp/vsock; do sleep 0.1; done"));
  for (const absl::Duration outage : Outages()) {
    SCOPED_TRACE(absl::FormatDuration(outage));
    std::printf("---- %s\n", absl::FormatDuration(outage).c_str());
    if (TriesDevices()) {
      ASSERT_NO_FATAL_FAILURE(TryDeadDevices(outage)) << vm_.guest().vm().log();
    }
    if (TriesBackEnds()) {
      ASSERT_NO_FATAL_FAILURE(TryBackEnds(outage)) << vm_.guest().vm().log();
    }
  }
  // The watchdog that has not expired yet does so, once nothing reloads it.
  InGuest("touch /tmp/stop.dog");
  AwaitEndInGuest("/tmp/pid.dog");
  InGuest("set_dog 0 32 2000; set_dog 4 32 2000; set_dog 12 16 0x100");
  EXPECT_TRUE(Await([&] { return Reports(v1::GuestReport::WATCHDOG_EXPIRED) == 1; }));
  const absl::StatusOr<ExitInfo> exit = vm_.guest().Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
  if (HasFailure()) std::printf("%s\n", vm_.guest().vm().log().c_str());
}

bool ReadArguments(int argc, char** argv) {
  std::vector<absl::Duration> given;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view word = argv[i];
    if (word[0] == '-') continue;  // googletest's
    if (word == "devices" || word == "back-ends") {
      (word == "devices" ? TriesBackEnds() : TriesDevices()) = false;
      continue;
    }
    absl::Duration outage;
    if (!absl::ParseDuration(word, &outage) || outage < absl::Seconds(1)) {
      std::fprintf(stderr,
                   "device_outages_test: \"%s\" is neither a duration of at least 1s nor "
                   "\"devices\" or \"back-ends\"\n",
                   argv[i]);
      return false;
    }
    given.push_back(outage);
  }
  if (!given.empty()) Outages() = given;
  return true;
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  if (!bulkhead::integration::ReadArguments(argc, argv)) return 2;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
