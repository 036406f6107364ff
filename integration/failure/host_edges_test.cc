// What the vmm finds when it is started, and what its host does to it: closed or stuck standard
// streams, limits, signals that its parent had ignored or that come during the start.

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/steady_time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kTimeout = absl::Seconds(60);

std::string KernelFlag() {
  return absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf"));
}
std::string RigFlag() {
  return absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig"));
}
// A guest that does nothing, without devices beside the console.
std::vector<std::string> IdleGuest() {
  return {KernelFlag(), "--cmdline=run=idle", "--memory=64M",
          absl::StrCat("--device-dir=", DataFile("devices/uart16550"))};
}
// One that reads a register of the rig all the time.
std::vector<std::string> BusyGuest(std::vector<std::string> more = {}) {
  std::vector<std::string> flags = {KernelFlag(), "--cmdline=run=watch_device", "--memory=64M",
                                    "--no-reboot", RigFlag()};
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

std::unique_ptr<VmProcess> Start(const std::vector<std::string>& flags,
                                 const std::string& shell = "") {
  absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags, shell);
  EXPECT_TRUE(vm.ok()) << vm.status();
  return *std::move(vm);
}

std::string ExitOf(VmProcess& vm, absl::Duration limit = kTimeout) {
  const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(limit);
  return exit.ok() ? exit->ToString() : exit.status().ToString();
}

// Waits for a device process that is not `old`.
pid_t AwaitDevice(const VmProcess& vm, const std::string& name, pid_t old = kNoProcess) {
  const absl::Time deadline = SteadyNow() + kTimeout;
  while (SteadyNow() < deadline) {
    const pid_t pid = vm.PidOf(name);
    if (pid != kNoProcess && pid != old) return pid;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return kNoProcess;
}

// ---- Standard descriptors ---------------------------------------------------------

// If standard streams are closed, the output of the vmm does not go into a file that got their
// number: the disk keeps its bytes.
TEST(StandardDescriptorsTest, ClosedOnesDoNotTurnTheDiskIntoTheLog) {
  for (const char* const closed : {">&- 2>&-", "<&- 2>&-", "2>&-", "<&- >&- 2>&-", ">&-"}) {
    const std::string disk = TempPath("disk.img");
    const std::string before(1 << 20, 'd');
    std::ofstream(disk, std::ios::binary) << before;
    std::vector<std::string> flags = {KernelFlag(),
                                      "--cmdline=run=idle",
                                      "--memory=64M",
                                      "--console=none",
                                      "--control=none",
                                      absl::StrCat("--device-dir=", DataFile("devices/virtio_blk")),
                                      absl::StrCat("--disk=path=", disk)};
    const auto vm = Start(flags, absl::StrCat("exec ", closed));
    ASSERT_NE(AwaitDevice(*vm, "virtio_blk"), kNoProcess) << closed;
    absl::SleepFor(absl::Milliseconds(300));
    ASSERT_TRUE(vm->Signal(SIGTERM).ok());
    EXPECT_EQ(ExitOf(*vm), "exit code 6") << closed;
    EXPECT_TRUE(ReadFile(disk) == before) << closed << ": " << ReadFile(disk).substr(0, 200);
  }
}

// A terminal that is not read, with room for a few bytes: poll(2) calls it writable, and a write
// of a line waits.
class StuckTerminal {
 public:
  StuckTerminal() {
    Open();
    const size_t capacity = Fill(SIZE_MAX);
    // The kernel counts what is left in pieces: the least that counts.
    for (size_t room = 10; room < 600; room += 10) {
      Open();
      Fill(capacity - room);
      pollfd writable = {.fd = terminal_.get(), .events = POLLOUT, .revents = 0};
      if (poll(&writable, 1, 0) == 1) return;
    }
    ADD_FAILURE() << "no terminal that is nearly full calls itself writable";
  }
  const std::string& path() const { return path_; }

 private:
  void Open() {
    int user = -1;
    int terminal = -1;
    struct termios mode = {};
    cfmakeraw(&mode);
    mode.c_oflag |= OPOST | ONLCR;
    char name[100];
    ASSERT_EQ(openpty(&user, &terminal, name, &mode, nullptr), 0);
    user_ = UniqueFd(user);
    terminal_ = UniqueFd(terminal);
    path_ = name;
  }
  // Writes `limit` bytes, or what there is room for. How many that were.
  size_t Fill(size_t limit) {
    const UniqueFd filler(open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    const std::string piece = std::string(290, 'x') + "\n";
    size_t done = 0;
    while (done < limit) {
      const ssize_t n = write(filler.get(), piece.data(), std::min(piece.size(), limit - done));
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    return done;
  }

  UniqueFd user_;      // is not read
  UniqueFd terminal_;  // open, or it would be hung up
  std::string path_;
};

TEST(StuckLogTest, ATerminalThatNobodyReadsHoldsUpNeitherRecoveryNorSigterm) {
  const StuckTerminal terminal;
  const auto vm = Start(BusyGuest(), absl::StrCat("exec 2>", terminal.path()));
  ASSERT_TRUE(vm->WaitForOutput("watching", kTimeout).ok());
  pid_t device = vm->PidOf("rig");
  // Each recovery logs several lines. (More than four in a minute would be too many.)
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(kill(device, SIGKILL), 0);
    const pid_t next = AwaitDevice(*vm, "rig", device);
    ASSERT_NE(next, kNoProcess) << "recovery " << i;
    device = next;
  }
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
  EXPECT_FALSE(IsAlive(device));
}

TEST(StuckLogTest, AFullPipeHoldsUpNeitherRecoveryNorSigterm) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  const std::string fifo = absl::StrCat("/proc/", getpid(), "/fd/", write_end.get());
  fcntl(write_end.get(), F_SETFL, O_NONBLOCK);
  while (write(write_end.get(), std::string(4096, 'x').data(), 4096) > 0) {
  }
  fcntl(write_end.get(), F_SETFL, 0);
  const auto vm = Start(BusyGuest(), absl::StrCat("exec 2>", fifo));
  ASSERT_TRUE(vm->WaitForOutput("watching", kTimeout).ok());
  const pid_t device = vm->PidOf("rig");
  ASSERT_EQ(kill(device, SIGKILL), 0);
  ASSERT_NE(AwaitDevice(*vm, "rig", device), kNoProcess);
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
}

// ---- The log ----------------------------------------------------------------------

TEST(LogTest, LinesOfARunningVmCarryTimeAndNameAndItsEndOnDemandIsNoError) {
  const auto vm = Start(BusyGuest({"--name=web"}));
  ASSERT_TRUE(vm->WaitForOutput("watching", kTimeout).ok());
  const pid_t device = vm->PidOf("rig");
  ASSERT_EQ(kill(device, SIGKILL), 0);
  ASSERT_TRUE(vm->WaitForLog("serves again", kTimeout).ok());
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
  const std::string head =
      "20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z vmm\\[web\\]: ";
  EXPECT_THAT(vm->log(), ContainsRegex(absl::StrCat(head, "error: device 'rig'")));
  EXPECT_THAT(vm->log(), ContainsRegex(absl::StrCat(head, "device 'rig' serves again")));
  EXPECT_THAT(vm->log(), ContainsRegex(absl::StrCat(head, "the VM ended: stopped: ")));
}

TEST(LogTest, WhatADeviceSaidLastCannotPassForTheVmms) {
  const auto vm = Start(
      {KernelFlag(), "--console=none", "--memory=64M", "--sandbox=off",
       "--device=name=liar,binary=/bin/sh,arg=-c,arg=echo 'vmm: error: all is lost'; exit 1"});
  EXPECT_EQ(ExitOf(*vm), "exit code 1");
  EXPECT_THAT(vm->log(), HasSubstr("vmm: liar| vmm: error: all is lost\n"));
  for (const absl::string_view line : absl::StrSplit(vm->log(), '\n', absl::SkipEmpty())) {
    EXPECT_THAT(std::string(line), testing::StartsWith("vmm: "));
    EXPECT_THAT(std::string(line), Not(testing::StartsWith("vmm: error: all")));
  }
}

// ---- Signals ----------------------------------------------------------------------

TEST(InheritedSignalsTest, WhatTheParentIgnoredStaysIgnored) {
  const auto vm = Start(BusyGuest(), "trap '' HUP INT QUIT");
  ASSERT_TRUE(vm->WaitForOutput("watching", kTimeout).ok());
  for (const int ignored : {SIGHUP, SIGINT, SIGQUIT}) ASSERT_TRUE(vm->Signal(ignored).ok());
  EXPECT_EQ(ExitOf(*vm, absl::Seconds(1)).substr(0, 17), "DEADLINE_EXCEEDED");
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
  EXPECT_THAT(vm->log(), HasSubstr("Terminated"));
}

TEST(InheritedSignalsTest, BlockedAndOtherwiseIgnoredOnesDoNoHarm) {
  // SIGCHLD ignored: the kernel would reap devices, and how they ended would be lost.
  const auto vm =
      Start(BusyGuest(), "trap '' CHLD; exec env --block-signal=TERM,HUP,CHLD \"$0\" \"$@\"");
  ASSERT_TRUE(vm->WaitForOutput("watching", kTimeout).ok());
  ASSERT_EQ(kill(vm->PidOf("rig"), SIGKILL), 0);
  EXPECT_TRUE(vm->WaitForLog("killed by signal 9", kTimeout).ok());
  EXPECT_TRUE(vm->WaitForLog("serves again", kTimeout).ok());
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
}

// A device that does not answer is waited for for ten seconds. A signal is not.
TEST(SignalsAtStartTest, ASignalEndsAStartThatHangs) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    const std::string socket = TempPath("start.sock");
    const auto vm =
        Start({KernelFlag(), "--console=none", "--memory=64M", absl::StrCat("--control=", socket),
               "--sandbox=off", "--device=name=mute,binary=/bin/sleep,arg=1000"});
    const pid_t device = AwaitDevice(*vm, "sleep");
    ASSERT_NE(device, kNoProcess);
    const absl::Time begin = SteadyNow();
    ASSERT_TRUE(vm->Signal(number).ok());
    EXPECT_EQ(ExitOf(*vm), "exit code 6");
    // 0.1 s where nothing else runs.
    EXPECT_LT(SteadyNow() - begin, absl::Seconds(5));
    EXPECT_FALSE(IsAlive(device));
    EXPECT_FALSE(std::filesystem::exists(socket));
    EXPECT_THAT(vm->log(), AllOf(HasSubstr("before it started"), Not(HasSubstr("error"))));
  }
}

TEST(SignalsAtStartTest, ASignalEndsTheWaitForAConfiguration) {
  const std::string pipe = TempPath("config.fifo");
  unlink(pipe.c_str());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto vm = Start({"--config=" + pipe, "--console=none"});
  UniqueFd writer;
  for (const absl::Time latest = SteadyNow() + kTimeout; !writer.ok() && SteadyNow() < latest;
       absl::SleepFor(absl::Milliseconds(1))) {
    writer.reset(open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));  // it has opened it
  }
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
}

// ---- Limits -----------------------------------------------------------------------

std::vector<std::string> LargestGuest() {
  std::vector<std::string> flags = {KernelFlag(), "--cmdline=run=idle", "--memory=64M", "--cpus=32",
                                    absl::StrCat("--device-dir=", DataFile("devices/uart16550"))};
  for (int i = 0; i < 30; ++i) {
    flags.push_back(absl::StrCat("--device=name=rng", i,
                                 ",binary=", DataFile("devices/virtio_rng/virtio_rng")));
  }
  return flags;
}

int64_t Number(const std::string& path) {
  int64_t number = -12345;
  std::ifstream(path) >> number;
  return number;
}

TEST(LimitsTest, TheLargestVmStartsUnderTheUsualSoftLimitAndItsDevicesHaveTheirOwn) {
  const auto vm = Start(LargestGuest(), "ulimit -Hn 20000; ulimit -Sn 1024");
  ASSERT_TRUE(vm->WaitForOutput("idle", absl::Minutes(3)).ok()) << vm->log();
  const pid_t device = vm->PidOf("virtio_rng");
  ASSERT_NE(device, kNoProcess);
  EXPECT_THAT(
      ReadFile(absl::StrCat("/proc/", device, "/limits")),
      AllOf(ContainsRegex("Max open files +4096 +4096 "), ContainsRegex("Max file size +0 +0 ")));
  // And under memory pressure the vmm goes first: its devices' end would free nothing.
  EXPECT_GT(Number(absl::StrCat("/proc/", vm->pid(), "/oom_score_adj")),
            Number(absl::StrCat("/proc/", device, "/oom_score_adj")));
  EXPECT_EQ(Number(absl::StrCat("/proc/", device, "/oom_score_adj")),
            Number("/proc/self/oom_score_adj"));
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
}

TEST(LimitsTest, ADeviceOfTheMostInterruptsStarts) {
  const std::vector<std::string> flags = {
      KernelFlag(), "--cmdline=run=idle", "--memory=64M",
      absl::StrCat("--device-dir=", DataFile("devices/uart16550")),
      absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig"),
                   ",arg=--msix_vectors=2048")};
  const auto vm = Start(flags, "ulimit -Hn 20000");
  ASSERT_TRUE(vm->WaitForOutput("idle", absl::Minutes(3)).ok()) << vm->log();
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
  const auto narrow = Start(flags, "ulimit -n 2000");
  EXPECT_EQ(ExitOf(*narrow), "exit code 1");
  EXPECT_THAT(narrow->log(),
              AllOf(HasSubstr("2048 interrupts"), HasSubstr("2000"), HasSubstr("ulimit -Hn")));
}

TEST(LimitsTest, TooFewOpenFilesAreToldBeforeAnythingStarts) {
  const auto vm = Start(LargestGuest(), "ulimit -n 300");
  EXPECT_EQ(ExitOf(*vm), "exit code 1");
  EXPECT_THAT(vm->log(), AllOf(HasSubstr("open files"), HasSubstr("300"), HasSubstr("ulimit -Hn")));
  EXPECT_EQ(std::count(vm->log().begin(), vm->log().end(), '\n'), 1) << vm->log();
}

// RLIMIT_NPROC does not bind root, so the vmm runs as another user, from a folder that this one can
// read. It ends by itself with any limit.
TEST(LimitsTest, TooFewThreadsAreToldAndNothingHangs) {
  std::string folder = "/tmp/bulkhead-readable-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const absl::Cleanup remove = [&folder] { std::filesystem::remove_all(folder); };
  for (const char* file :
       {"vmm/vmm", "kernel_images/baremetal/guest.elf", "devices/virtio_rng/virtio_rng"}) {
    std::filesystem::copy_file(
        DataFile(file), absl::StrCat(folder, "/", std::filesystem::path(file).filename().c_str()),
        std::filesystem::copy_options::overwrite_existing);
  }
  chmod(folder.c_str(), 0755);
  for (const int threads : {1, 2, 3, 5, 8, 12, 16, 20, 24}) {
    const auto vm = Start({absl::StrCat("--kernel=", folder, "/guest.elf"), "--console=none",
                           "--control=none", "--memory=64M", "--cmdline=run=idle",
                           absl::StrCat("--device=name=rng,binary=", folder, "/virtio_rng")},
                          absl::StrCat("exec prlimit --nproc=", threads,
                                       " setpriv --reuid=54321 --regid=54321 "
                                       "--clear-groups ",
                                       folder, "/vmm \"$@\""));
    EXPECT_EQ(ExitOf(*vm), "exit code 1") << threads;
    EXPECT_THAT(vm->log(), HasSubstr("ulimit -u")) << threads;
    EXPECT_EQ(std::count(vm->log().begin(), vm->log().end(), '\n'), 1) << vm->log();
  }
}

TEST(LimitsTest, AFileSizeLimitIsAnErrorAndNotASignal) {
  const auto vm = Start(IdleGuest(), "ulimit -f 1");
  EXPECT_EQ(ExitOf(*vm), "exit code 1");
  EXPECT_THAT(vm->log(), HasSubstr("File too large"));
}

TEST(LimitsTest, ADeletedWorkingDirectoryAnEmptyEnvironmentAndNoLockedMemoryDoNoHarm) {
  const auto vm = Start(BusyGuest({"--control=none"}),
                        "umask 777; ulimit -l 0; d=$(mktemp -d); chmod 700 $d; cd $d; rmdir $d; "
                        "exec env -i \"$0\" \"$@\"");
  ASSERT_TRUE(vm->WaitForOutput("watching", kTimeout).ok()) << vm->log();
  ASSERT_TRUE(vm->Signal(SIGTERM).ok());
  EXPECT_EQ(ExitOf(*vm), "exit code 6");
}

}  // namespace
}  // namespace bulkhead::integration
