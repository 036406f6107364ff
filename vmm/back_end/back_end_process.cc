#include "vmm/back_end/back_end_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/end_with_parent.h"
#include "base/unique_fd.h"
#include "vmm/back_end/back_end_sandbox.h"
#include "vmm/process/printable.h"
#include "vmm/side_process/side_log.h"

namespace bulkhead::vmm {
namespace {

constexpr int64_t kFirstPauseMs = 100;
constexpr int64_t kLongestPauseMs = 10'000;
// A back end that lived so long is started again without a pause.
constexpr int64_t kLivesMs = 10'000;
constexpr int kListener = 0;
constexpr size_t kMaxLineBytes = 300;
// Of a back end's lines in a second; further ones are dropped.
constexpr int kMaxLines = 20;

// What a back end writes, line by line. It is not trusted.
class LineLog {
 public:
  explicit LineLog(const std::string& device) : prefix_(absl::StrCat(device, ": back end: ")) {}
  void Add(absl::string_view bytes) {
    for (const char c : bytes) {
      if (c != '\n' && line_.size() < kMaxLineBytes) AppendPrintable(c, line_);
      if (c == '\n') Flush();
    }
  }
  void Flush() {
    if (line_.empty()) return;
    const int64_t second = NowMs() / 1000;
    if (std::exchange(second_, second) != second) lines_ = 0;
    if (++lines_ <= kMaxLines) WriteLogLine(absl::StrCat(prefix_, line_));
    if (lines_ == kMaxLines) WriteLogLine(absl::StrCat(prefix_, "further lines are dropped"));
    line_.clear();
  }

 private:
  const std::string prefix_;
  std::string line_;
  int64_t second_ = 0;
  int lines_ = 0;
};

// Starts the program, with `log` as its standard output and error. Returns its pid, -1: errno.
// `self`: a pidfd of this process.
pid_t StartProgram(int self, const BackEndSpec& spec, SandboxLayers layers, int log) {
  clone_args args = {};
  args.flags = NamespacesOf(layers);
  args.exit_signal = SIGCHLD;
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  const auto process = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
  if (process != 0) return process;
  EndWithParent(self);
  if (dup2(kListener, kBackEndSocket) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
      dup2(log, STDERR_FILENO) < 0) {
    _exit(1);
  }
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0) _exit(1);
  close_range(kBackEndSocket + 1, ~0u, 0);
  ExecuteConfined(spec, layers, uid, gid);
}

}  // namespace

void SuperviseBackEnd(int parent, const std::string& device, const BackEndSpec& spec, int listener,
                      SandboxLayers layers) {
  EndWithParent(parent);
  prctl(PR_SET_NAME, "vmm-back-end");
  setsid();  // the terminal's signals are for the vmm
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // Standard output may be the guest's console.
  if (dup2(listener, kListener) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 ||
      close_range(3, ~0u, 0) != 0) {
    _exit(1);
  }
  const UniqueFd self = OwnPidFd();
  if (!self.ok()) _exit(1);
  BackEndSpec program = spec;
  for (std::string& arg : program.args) {
    arg = absl::StrReplaceAll(arg, {{"{socket}", absl::StrCat(kBackEndSocket)}});
  }
  LineLog lines(device);
  int64_t pause_ms = kFirstPauseMs;
  while (true) {
    int log[2];
    if (pipe2(log, O_CLOEXEC) != 0) _exit(1);
    const int64_t started_ms = NowMs();
    const pid_t process = StartProgram(self.get(), program, layers, log[1]);
    const int error = errno;
    close(log[1]);
    std::string end;
    if (process < 0) {
      end = absl::StrCat("cannot be started: clone3: ", strerror(error),
                         error == EPERM ? " (no user namespaces on this host? see --sandbox)" : "");
    } else {
      char bytes[512];
      ssize_t size;
      while ((size = read(log[0], bytes, sizeof(bytes))) > 0 || (size < 0 && errno == EINTR)) {
        if (size > 0) lines.Add(absl::string_view(bytes, static_cast<size_t>(size)));
      }
      lines.Flush();
      int status = 0;
      while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
      }
      end = HowItEnded(status);
    }
    close(log[0]);
    if (NowMs() - started_ms >= kLivesMs) pause_ms = kFirstPauseMs;
    WriteLogLine(absl::StrCat("warning: ", device, ": the back end ", spec.binary, " ", end,
                              "; it is started again in ", pause_ms, " ms"));
    const timespec pause = {.tv_sec = pause_ms / 1000, .tv_nsec = pause_ms % 1000 * 1'000'000};
    nanosleep(&pause, nullptr);
    pause_ms = std::min(2 * pause_ms, kLongestPauseMs);
  }
}

}  // namespace bulkhead::vmm
