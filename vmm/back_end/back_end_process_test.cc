// What a back end can do, as shell scripts in its place see it.
#include "vmm/back_end/back_end_process.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/end_with_parent.h"
#include "base/pipe.h"
#include "base/testing/files.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/program_report.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class BackEndProcessTest : public testing::Test {
 protected:
  BackEndProcessTest() {
    std::ofstream(read_only_) << "text";
    std::ofstream(writable_) << "text";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    listener_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_.get(), 1), 0);
  }
  ~BackEndProcessTest() override { Kill(); }

  BackEndSpec Script(const std::string& script) const {
    return {.binary = "/bin/sh",
            .args = {"-c", script, "sh", read_only_, writable_, "{socket}"},
            .files = {{.path = read_only_, .read_only = true}, {.path = writable_}}};
  }
  void Start(const std::string& script, SandboxLayers layers = SandboxLayers::OfDevices()) {
    Start(Script(script), layers);
  }
  // A script that has the folder `shared_`, as virtiofsd does.
  void ExpectThatVirtiofsdServes(const std::string& folder);
  void StartForFolder(const std::string& script, bool read_only = false,
                      SandboxLayers layers = SandboxLayers::OfDevices()) {
    std::filesystem::create_directories(shared_);
    Start({.binary = "/bin/sh",
           .args = {"-c", script, "sh", shared_},
           .files = {{.path = shared_, .read_only = read_only}},
           .serves_folder = true},
          layers);
  }
  void Start(const BackEndSpec& spec, SandboxLayers layers) {
    const UniqueFd self = OwnPidFd();
    int log[2];
    ASSERT_EQ(pipe(log), 0);
    supervisor_ = fork();
    ASSERT_GE(supervisor_, 0);
    if (supervisor_ == 0) {
      dup2(log[1], STDERR_FILENO);
      // With prctl(2): as a program that such a user has started.
      const gid_t groups[] = {4321, 4322};
      if (user_ != 0 && (setgroups(2, groups) != 0 || setgid(user_) != 0 || setuid(user_) != 0 ||
                         prctl(PR_SET_DUMPABLE, 1) != 0)) {
        _exit(1);
      }
      SuperviseBackEnd(self.get(), "disk", spec, listener_.get(), layers, *report_);
    }
    close(log[1]);
    log_ = UniqueFd(log[0]);
  }
  // What was logged until `text` appears.
  std::string LogUntil(const std::string& text) {
    std::string all;
    while (!absl::StrContains(all, text)) {
      pollfd ready = {.fd = log_.get(), .events = POLLIN, .revents = 0};
      char bytes[1024];
      if (poll(&ready, 1, 20'000) <= 0) break;
      const ssize_t size = read(log_.get(), bytes, sizeof(bytes));
      if (size <= 0) break;
      all.append(bytes, static_cast<size_t>(size));
    }
    EXPECT_THAT(all, HasSubstr(text));
    return all;
  }
  // Once all who write to it have ended.
  std::string RestOfLog() {
    std::string all;
    char bytes[1024];
    ssize_t size;
    while ((size = read(log_.get(), bytes, sizeof(bytes))) > 0) {
      all.append(bytes, static_cast<size_t>(size));
    }
    return all;
  }
  void Kill() {
    if (supervisor_ <= 0) return;
    kill(supervisor_, SIGKILL);
    waitpid(supervisor_, nullptr, 0);
    supervisor_ = -1;
  }
  int Connect() const {
    const UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const auto* const place = reinterpret_cast<const sockaddr*>(&address);
    return connect(client.get(), place, sizeof(address)) == 0 ? 0 : errno;
  }

  const std::string folder_ = MakeTempFolder();
  const std::string read_only_ = folder_ + "/read_only";
  const std::string writable_ = folder_ + "/writable";
  const std::string shared_ = folder_ + "/shared";
  const std::string socket_ = folder_ + "/socket";
  uid_t user_ = 0;  // the supervisor's, if not 0
  UniqueFd listener_;
  UniqueFd log_;
  const std::shared_ptr<ProgramReport> report_ = *ProgramReport::Create("/bin/sh", false);
  pid_t supervisor_ = -1;
};

TEST_F(BackEndProcessTest, ItsEndAndItsSuccessorAreReported) {
  Start("echo begins; while :; do :; done");
  LogUntil("begins");
  const pid_t first = report_->Read().pid;
  ASSERT_GT(first, 0);
  ASSERT_EQ(kill(first, SIGKILL), 0);
  LogUntil("is started again");
  LogUntil("begins");
  EXPECT_NE(report_->Read().pid, first);
  EXPECT_GT(report_->Read().pid, 0);
  EXPECT_EQ(report_->Read().starts, 2u);
}

TEST_F(BackEndProcessTest, ItSeesItsFilesAndPrograms) {
  Start(R"(read -r word < $1 || [ "$word" = text ] && echo "it reads $word"
           if ! echo more >> $1; then echo "it does not write $1"; fi
           echo new > $2 && echo "it writes"
           [ -e /usr/bin/sh ] && echo "it has programs"
           [ -e /proc/self ] || [ -e /etc/passwd ] || [ -e /home ] || echo "no other files"
           echo new > /new || echo "the root is read-only"
           echo end)");
  const std::string log = LogUntil("it is started again");
  EXPECT_THAT(log, HasSubstr("it reads text"));
  EXPECT_THAT(log, HasSubstr("it does not write"));
  EXPECT_THAT(log, HasSubstr("it writes"));
  EXPECT_THAT(log, HasSubstr("it has programs"));
  EXPECT_THAT(log, HasSubstr("no other files"));
  EXPECT_THAT(log, HasSubstr("the root is read-only"));
  EXPECT_EQ(ReadFile(read_only_), "text");
  EXPECT_EQ(ReadFile(writable_), "new\n");
}

// Each layer alone keeps it from a file that it is not given, or from writing.
TEST_F(BackEndProcessTest, LandlockAndTheMountNamespaceHideFilesEachByItself) {
  for (const SandboxLayer waived : {SandboxLayer::kMount, SandboxLayer::kLandlock}) {
    SCOPED_TRACE(Name(waived));
    Start(R"(read -r line < /etc/passwd && echo "it reads others"
             echo x > $1 && echo "it writes"
             read -r line < $1 || [ "$line" = text ] && echo "it reads its file")",
          SandboxLayers::OfDevices().Without(waived));
    const std::string log = LogUntil("it is started again");
    EXPECT_THAT(log, HasSubstr("it reads its file")) << "it has come to the end";
    EXPECT_THAT(log, Not(HasSubstr("it reads others")));
    EXPECT_THAT(log, Not(HasSubstr("it writes")));
    Kill();
  }
}

// As one that a guest has taken over could try.
TEST_F(BackEndProcessTest, OneThatServesAFolderReachesThatFolderAlone) {
  std::ofstream(folder_ + "/secret") << "secret";
  StartForFolder(R"(
      echo new > $1/file && echo "it writes"
      read -r word < $1/file && echo "it reads $word"
      [ -e /proc/self/fd ] && echo "it has itself in /proc"
      read -r word < $1/../secret && echo "ESCAPED to $word"
      for file in /etc/passwd /dev/vda /sys /home; do
        [ -e $file ] && echo "ESCAPED to $file"
      done
      for file in /proc/kallsyms /proc/sys/kernel/hostname /proc/cpuinfo /proc/self/environ; do
        read -r word < $file && echo "ESCAPED to read $file"
      done
      for file in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname; do
        echo x > $file && echo "ESCAPED to write $file"
      done
      for file in /new /proc/new /usr/new /usr/bin/sh; do
        echo new >> $file && echo "ESCAPED to write $file"
      done
      for pid in 2 3 $PPID; do [ ! -e /proc/$pid ] || [ $pid = 0 ] || echo "ESCAPED to see $pid"; done
      for entry in /proc/*; do [ -e $entry ] && echo "ESCAPED to list $entry"; done
      kill -0 2 && echo "ESCAPED to signal"
      echo end)");
  const std::string log = LogUntil("it is started again");
  EXPECT_THAT(log, HasSubstr("it writes"));
  EXPECT_THAT(log, HasSubstr("it reads new"));
  EXPECT_THAT(log, HasSubstr("it has itself in /proc"));
  EXPECT_THAT(log, HasSubstr("back end: end"));
  EXPECT_THAT(log, Not(HasSubstr("ESCAPED")));
  EXPECT_EQ(ReadFile(shared_ + "/file"), "new\n");
}

TEST_F(BackEndProcessTest, AFolderToBeReadOnlyIsSoByEachOfTwoLayers) {
  for (const SandboxLayers layers :
       {SandboxLayers::OfDevices(), SandboxLayers::OfDevices().Without(SandboxLayer::kMount),
        SandboxLayers::OfDevices().Without(SandboxLayer::kLandlock)}) {
    SCOPED_TRACE(layers.Names().size());
    StartForFolder("echo x > $1/file && echo \"it writes\"; echo end", /*read_only=*/true, layers);
    const std::string log = LogUntil("it is started again");
    EXPECT_THAT(log, HasSubstr("back end: end"));
    EXPECT_THAT(log, Not(HasSubstr("it writes")));
    EXPECT_FALSE(std::filesystem::exists(shared_ + "/file"));
    Kill();
  }
}

// The folder's files may belong to anybody. In Perl: the shell has no chown of its own.
TEST_F(BackEndProcessTest, RootsOwnServesFilesOfAllUsers) {
  if (geteuid() != 0) GTEST_SKIP() << "only root has other users' files";
  std::filesystem::create_directories(shared_);
  std::ofstream(shared_ + "/theirs") << "text";
  ASSERT_EQ(chown((shared_ + "/theirs").c_str(), 1234, 4321), 0);
  ASSERT_EQ(chmod((shared_ + "/theirs").c_str(), 0600), 0);
  Start({.binary = "/usr/bin/perl",
         .args = {"-e", R"(
             my $d = $ARGV[0];
             open(my $f, "<", "$d/theirs");
             print "it reads ", <$f>, "\n";
             print "it is owned by ", join(":", (stat "$d/theirs")[4, 5]), "\n";
             chown(77, 88, "$d/theirs") and print "it changes owners\n";
             # mknod of a device, mount, sethostname, ptrace, kexec_load, setns
             print "ESCAPED by $_->[0]\n" for grep { syscall(@$_) >= 0 } (
                 [133, "$d/device", 060600, 0x700], [165, $d, "/proc", 0, 4096, 0],
                 [170, "name", 4], [101, 16, 1, 0, 0], [246, 0, 0, 0, 0], [308, 0, 0]);
             $) = "55 55"; $> = 66; # effective group and user, as virtiofsd changes them
             open(my $n, ">", "$d/new") or print "not writable for 66, as it should be\n";
             print "end\n";)",
                  shared_},
         .files = {{.path = shared_}},
         .serves_folder = true},
        SandboxLayers::OfDevices());
  const std::string log = LogUntil("it is started again");
  EXPECT_THAT(log, HasSubstr("it reads text"));
  EXPECT_THAT(log, HasSubstr("it is owned by 1234:4321"));
  EXPECT_THAT(log, HasSubstr("it changes owners"));
  EXPECT_THAT(log, HasSubstr("not writable for 66"));
  EXPECT_THAT(log, HasSubstr("back end: end"));
  EXPECT_THAT(log, Not(HasSubstr("ESCAPED")));
  struct stat info = {};
  ASSERT_EQ(stat((shared_ + "/theirs").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 77u);
  EXPECT_EQ(info.st_gid, 88u);
}

// Its keeper stands between it and the device. Each connection is a device's process.
void BackEndProcessTest::ExpectThatVirtiofsdServes(const std::string& folder) {
  Start({.binary = "/usr/lib/qemu/virtiofsd",
         .args = {"--fd={socket}", "--rlimit-nofile=0", "-f", "-o",
                  "sandbox=chroot,modcaps=-mknod:-setfcap,log_level=info,source=" + folder},
         .files = {{.path = folder}},
         .serves_folder = true},
        SandboxLayers::OfDevices());
  LogUntil("Received vhost-user socket connection");
  constexpr uint32_t kGetFeatures[] = {1, 1, 0};
  int answers = 0;
  for (int i = 0; i < 100 && answers < 5; ++i) {
    const UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    ASSERT_EQ(send(client.get(), kGetFeatures, sizeof(kGetFeatures), MSG_NOSIGNAL),
              static_cast<ssize_t>(sizeof(kGetFeatures)));
    char answer[20];  // the header, and 64 bits
    // None: it was made before the keeper began to listen.
    if (recv(client.get(), answer, sizeof(answer), MSG_WAITALL) == sizeof(answer)) ++answers;
  }
  EXPECT_EQ(answers, 5);
  Kill();
  EXPECT_THAT(RestOfLog(), Not(HasSubstr("started again")));
}

TEST_F(BackEndProcessTest, VirtiofsdOutlivesTheConnectionsToIt) {
  std::filesystem::create_directories(shared_);
  ExpectThatVirtiofsdServes(shared_);
}

TEST_F(BackEndProcessTest, VirtiofsdServesAFolderOfAnOrdinaryUserWithSeveralGroups) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  user_ = 65534;
  char folder[] = "/tmp/bulkhead_shared_XXXXXX";  // its own folder may be below one of root's
  ASSERT_NE(mkdtemp(folder), nullptr);
  ASSERT_EQ(chown(folder, user_, user_), 0);
  ExpectThatVirtiofsdServes(folder);
  std::filesystem::remove_all(folder);
}

TEST_F(BackEndProcessTest, ItStartsNoProcesses) {
  Start("/usr/bin/true && echo \"it has started one\"");
  const std::string log = LogUntil("it is started again");
  EXPECT_THAT(log, HasSubstr("Cannot fork")) << "it has tried";
  EXPECT_THAT(log, Not(HasSubstr("it has started one")));
}

TEST_F(BackEndProcessTest, ItIsStartedAgainAfterAPause) {
  Start("exit 3");
  LogUntil("disk: the back end /bin/sh ended with exit code 3; it is started again in 100 ms");
  LogUntil("ended with exit code 3; it is started again in 200 ms");
  LogUntil("ended with exit code 3; it is started again in 400 ms");
}

TEST_F(BackEndProcessTest, WhatItWritesIsEscapedAndLimited) {
  Start("i=0; while [ $i -lt 1000 ]; do echo \"line $i \033[31m\"; i=$((i+1)); done");
  const std::string log = LogUntil("it is started again");
  EXPECT_THAT(log, HasSubstr("vmm: disk: back end: line 0 \\x1b[31m"));
  EXPECT_THAT(log, HasSubstr("further lines are dropped"));
  EXPECT_LT(log.size(), 50'000u);
}

TEST_F(BackEndProcessTest, ItEndsWithItsSupervisor) {
  Start("echo begin; while :; do read -r x < $2; done");
  LogUntil("begin");
  listener_.reset();
  EXPECT_EQ(Connect(), 0);
  Kill();
  for (int i = 0; i < 2000 && Connect() != ECONNREFUSED; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(Connect(), ECONNREFUSED);
}

TEST_F(BackEndProcessTest, ASupervisorThatBeginsAfterItsVmmsDeathStartsNothing) {
  Pipe log = CreatePipe().value();
  const pid_t vmm = fork();
  ASSERT_GE(vmm, 0);
  if (vmm == 0) {
    const UniqueFd self = OwnPidFd();
    if (fork() != 0) _exit(0);
    pollfd dead = {.fd = self.get(), .events = POLLIN, .revents = 0};
    poll(&dead, 1, -1);
    dup2(log.write_end.get(), STDERR_FILENO);
    (void)!write(STDERR_FILENO, "begin\n", 6);
    SuperviseBackEnd(self.get(), "disk", Script("exit 3"), listener_.get(),
                     SandboxLayers::OfDevices(), *report_);
  }
  log.write_end.reset();
  waitpid(vmm, nullptr, 0);
  std::string all;
  char bytes[1024];
  ssize_t size;
  while (all.size() < 10 && (size = read(log.read_end.get(), bytes, sizeof(bytes))) > 0) {
    all.append(bytes, static_cast<size_t>(size));
  }
  EXPECT_EQ(all, "begin\n");
}

}  // namespace
}  // namespace bulkhead::vmm
