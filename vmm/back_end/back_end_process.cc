#include "vmm/back_end/back_end_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
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
#include "vmm/back_end/connection_keeper.h"
#include "vmm/back_end/unnamed_listener.h"
#include "vmm/process/printable.h"
#include "vmm/side_process/side_log.h"

namespace bulkhead::vmm {
namespace {

constexpr int64_t kFirstPauseMs = 100;
constexpr int64_t kLongestPauseMs = 10'000;
// A back end that lived so long is started again without a pause.
constexpr int64_t kLivesMs = 10'000;
constexpr int kListener = 0;
// As virtiofsd has by default: it holds each file that the guest knows.
constexpr rlim_t kFolderDescriptors = 1 << 20;
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
pid_t StartProgram(int self, const BackEndSpec& spec, SandboxLayers layers, int listener, int log) {
  clone_args args = {};
  args.flags = NamespacesOf(layers);
  args.exit_signal = SIGCHLD;
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  int go[2];  // the child's users are mapped
  if (pipe2(go, O_CLOEXEC) != 0) return -1;
  const UniqueFd wait(go[0]);
  UniqueFd tell(go[1]);
  const auto process = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
  if (process < 0) return process;
  if (process > 0) {
    const int error = MapUsersOf(process, spec, layers);
    if (error == 0 && write(tell.get(), "g", 1) == 1) return process;
    kill(process, SIGKILL);
    waitpid(process, nullptr, 0);
    errno = error;
    return -1;
  }
  EndWithParent(self);
  tell.reset();
  char byte;
  if (read(wait.get(), &byte, 1) != 1) _exit(1);
  if (dup2(listener, kBackEndSocket) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
      dup2(log, STDERR_FILENO) < 0) {
    _exit(1);
  }
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0) _exit(1);
  close_range(kBackEndSocket + 1, ~0u, 0);
  ExecuteConfined(spec, layers, uid, gid);
}

// Starts the process that keeps the connection to the program which listens at `listener`.
// Returns its pid, or -1.
pid_t StartKeeper(int self, const UnnamedListener& listener, SandboxLayers layers) {
  absl::StatusOr<UniqueFd> connection = ConnectTo(listener);
  if (!connection.ok()) return -1;
  const pid_t process = fork();
  if (process != 0) return process;
  EndWithParent(self);
  prctl(PR_SET_NAME, "vmm-back-end-at");
  if (dup2(connection->get(), kBackEndSocket) < 0 || close_range(kBackEndSocket + 1, ~0u, 0) != 0) {
    _exit(1);
  }
  ConfineKeeper(layers);
  KeepConnection(kListener, kBackEndSocket);
  _exit(0);
}

// The program's end, read from `log`, to which it writes until then.
std::string AwaitEnd(pid_t process, int log, LineLog& lines) {
  char bytes[512];
  ssize_t size;
  while ((size = read(log, bytes, sizeof(bytes))) > 0 || (size < 0 && errno == EINTR)) {
    if (size > 0) lines.Add(absl::string_view(bytes, static_cast<size_t>(size)));
  }
  lines.Flush();
  int status = 0;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  return HowItEnded(status);
}

// Runs the program once, and returns how it ended. `self`: a pidfd of this process.
std::string RunOnce(int self, const BackEndSpec& program, SandboxLayers layers, LineLog& lines,
                    ProgramReport& report) {
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) _exit(1);
  const UniqueFd log(pipe_ends[0]);
  UniqueFd log_end(pipe_ends[1]);
  pid_t keeper = -1;
  pid_t process = -1;
  if (program.serves_folder) {
    const absl::StatusOr<UnnamedListener> listener = MakeUnnamedListener();
    if (!listener.ok()) return absl::StrCat("cannot be started: ", listener.status().message());
    keeper = StartKeeper(self, *listener, layers);
    if (keeper < 0) return absl::StrCat("cannot be started: its keeper: ", strerror(errno));
    process = StartProgram(self, program, layers, listener->socket.get(), log_end.get());
  } else {
    process = StartProgram(self, program, layers, kListener, log_end.get());
  }
  const int error = errno;
  log_end.reset();
  if (process >= 0) report.OnStart(process);
  std::string end =
      process >= 0
          ? AwaitEnd(process, log.get(), lines)
          : absl::StrCat("cannot be started: ", strerror(error),
                         error == EPERM ? " (no user namespaces on this host? see --sandbox)" : "");
  report.OnEnd();
  if (keeper > 0) {
    kill(keeper, SIGKILL);
    waitpid(keeper, nullptr, 0);
  }
  return end;
}

void RaiseDescriptorLimit() {
  rlimit limits = {.rlim_cur = kFolderDescriptors, .rlim_max = kFolderDescriptors};
  if (setrlimit(RLIMIT_NOFILE, &limits) == 0 || getrlimit(RLIMIT_NOFILE, &limits) != 0) return;
  // Without the right to more, what there is has to do.
  limits.rlim_cur = limits.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limits);
}

}  // namespace

void SuperviseBackEnd(int parent, const std::string& device, const BackEndSpec& spec, int listener,
                      SandboxLayers layers, ProgramReport& report) {
  EndWithParent(parent);
  prctl(PR_SET_NAME, "vmm-back-end");
  report.OnEnd();  // the process before may have died
  setsid();        // the terminal's signals are for the vmm
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
  if (spec.serves_folder) RaiseDescriptorLimit();
  LineLog lines(device);
  int64_t pause_ms = kFirstPauseMs;
  while (true) {
    const int64_t started_ms = NowMs();
    const std::string end = RunOnce(self.get(), program, layers, lines, report);
    if (NowMs() - started_ms >= kLivesMs) pause_ms = kFirstPauseMs;
    WriteLogLine(absl::StrCat("warning: ", device, ": the back end ", spec.binary, " ", end,
                              "; it is started again in ", pause_ms, " ms"));
    const timespec pause = {.tv_sec = pause_ms / 1000, .tv_nsec = pause_ms % 1000 * 1'000'000};
    nanosleep(&pause, nullptr);
    pause_ms = std::min(2 * pause_ms, kLongestPauseMs);
  }
}

}  // namespace bulkhead::vmm
