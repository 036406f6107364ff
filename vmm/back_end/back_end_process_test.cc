// What a back end can do, as shell scripts in its place see it.
#include "vmm/back_end/back_end_process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
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
    const UniqueFd self = OwnPidFd();
    int log[2];
    ASSERT_EQ(pipe(log), 0);
    supervisor_ = fork();
    ASSERT_GE(supervisor_, 0);
    if (supervisor_ == 0) {
      dup2(log[1], STDERR_FILENO);
      SuperviseBackEnd(self.get(), "disk", Script(script), listener_.get(), layers);
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
  const std::string socket_ = folder_ + "/socket";
  UniqueFd listener_;
  UniqueFd log_;
  pid_t supervisor_ = -1;
};

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
                     SandboxLayers::OfDevices());
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
