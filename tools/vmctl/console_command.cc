// console.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/raw_terminal.h"
#include "base/shared_stream.h"
#include "base/steady_time.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/console_stream.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

constexpr size_t kPieceBytes = 4096;
// Of typed input that the guest does not take; more is dropped, so that the leaving key is seen.
constexpr size_t kMaxTypedBytes = 64 * 1024;
// For what was typed right before the leaving key to arrive. The key again leaves at once.
constexpr absl::Duration kFarewell = absl::Seconds(1);

// After the end of input: for the guest's answer to what was typed last. It ends once nothing has
// been printed for the first, or after the second.
constexpr absl::Duration kAnswerPause = absl::Milliseconds(500);
constexpr absl::Duration kAnswer = absl::Seconds(3);

// As Note(), but on a terminal that takes nothing the text is lost: the signals that would end this
// program wait in a descriptor.
void NoteNow(absl::string_view text) {
  WriteNow(STDERR_FILENO, absl::StrCat("vmctl: ", Printable(text), "\n"));
}

// Connects standard input and output to the stream until something ends it.
class ConsoleLoop {
 public:
  // `follows`: the end of input does not end it. Else the VM must have answered within `timeout`.
  ConsoleLoop(ConsoleStream& stream, RawTerminal& terminal, const SharedStream& output, int signals,
              int escape, bool follows, absl::Duration timeout)
      : stream_(stream),
        terminal_(terminal),
        standard_output_(output),
        signals_(signals),
        follows_(follows),
        attach_by_(SteadyNow() + timeout),
        // In a pipe or file every byte is the guest's.
        escape_(is_terminal_ ? escape : -1) {}

  // Returns when the stream has ended, the operator leaves, the input has ended, or this program is
  // to end.
  void Run() {
    while (!over_) {
      Advance();
      if (!over_) WaitAndServe();
    }
  }

  // Whether the operator or a signal ended it, not the VM.
  bool left() const { return leaving() || !ended_.has_value(); }
  // How the stream ended; set unless left().
  const std::optional<absl::Status>& ended() const { return ended_; }

 private:
  // All that needs no waiting.
  void Advance() {
    stream_.Drain();
    if (output_.empty()) TakeOutput();
    if (stream_.can_send()) SendInput();
    if (output_.empty()) ended_ = stream_.ended();
    const absl::Time now = SteadyNow();
    if (input_ended_ && !follows_ && !leaving() && input_.empty() && stream_.can_send() &&
        stream_.attached()) {
      leave_at_ = now + kAnswer;
      quiet_at_ = now + kAnswerPause;
    }
    if (AwaitsAttachment() && now >= attach_by_ && !ended_.has_value()) {
      ended_ = absl::DeadlineExceededError("the VM does not answer");
    }
    over_ =
        over_ || ended_.has_value() || now >= leave_at_ || (output_.empty() && now >= quiet_at_);
  }

  void TakeOutput() {
    uint64_t lost = 0;
    if (!stream_.Take(output_, lost)) return;
    if (quiet_at_ != absl::InfiniteFuture()) quiet_at_ = SteadyNow() + kAnswerPause;
    if (lost == 0) return;
    Say(absl::StrCat(lost, " bytes of output were lost here"));
  }

  void SendInput() {
    if (!input_.empty()) {
      stream_.Send(std::exchange(input_, std::string()));
    } else if (leaving() && !farewell_sent_) {
      farewell_sent_ = true;
      stream_.SendEnd();
    }
  }

  void WaitAndServe() {
    pollfd polled[] = {{.fd = stream_.fd(), .events = POLLIN, .revents = 0},
                       {.fd = signals_, .events = POLLIN, .revents = 0},
                       {.fd = WantsInput() ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0},
                       // Also without output: it shows at once that the reader is gone.
                       {.fd = standard_output_.fd(),
                        .events = static_cast<short>(output_.empty() ? 0 : POLLOUT),
                        .revents = 0}};
    const absl::Time next = AwaitsAttachment() ? attach_by_ : std::min(leave_at_, quiet_at_);
    // At least that: all is quiet, but output waits for standard output.
    const timespec limit = absl::ToTimespec(std::max(next - SteadyNow(), absl::Milliseconds(1)));
    // No limit but at the end: a console may be silent for days, and a signal ends the wait.
    if (ppoll(polled, 4, next != absl::InfiniteFuture() ? &limit : nullptr, nullptr) < 0) return;
    if (polled[1].revents != 0) ServeSignal();
    if (polled[2].revents != 0) ReadInput();
    if (polled[3].revents != 0) WriteOutput(polled[3].revents);
  }

  // The input has ended, and the VM has not said yet whether it takes this client.
  bool AwaitsAttachment() const {
    return input_ended_ && !follows_ && !leaving() && !stream_.attached();
  }
  bool leaving() const { return leave_at_ != absl::InfiniteFuture(); }

  bool WantsInput() const {
    if (input_ended_) return false;
    return is_terminal_ || input_.empty();
  }

  void ServeSignal() {
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) return;
    if (info.ssi_signo == SIGTSTP) {
      terminal_.Leave();
      raise(SIGSTOP);
      terminal_.Enter();
    } else if (info.ssi_signo != SIGCONT) {
      over_ = true;
    }
  }

  void ReadInput() {
    char piece[kPieceBytes];
    const ssize_t count = read(STDIN_FILENO, piece, sizeof(piece));
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count <= 0) {
      input_ended_ = true;
      // The terminal is gone, and with it the key that leaves.
      over_ = over_ || is_terminal_;
      return;
    }
    Type(absl::string_view(piece, static_cast<size_t>(count)));
  }

  void Type(absl::string_view typed) {
    const size_t key =
        escape_ < 0 ? absl::string_view::npos : typed.find(static_cast<char>(escape_));
    if (leaving()) {
      over_ = over_ || key != absl::string_view::npos;
      return;
    }
    const absl::string_view after =
        key == absl::string_view::npos ? absl::string_view() : typed.substr(key);
    typed = typed.substr(0, key);
    const size_t room = kMaxTypedBytes - std::min(kMaxTypedBytes, input_.size());
    absl::StrAppend(&input_, typed.substr(0, room));
    if (typed.size() > room) {
      Say(absl::StrCat("the guest takes no input; ", typed.size() - room, " bytes were dropped"));
    }
    if (after.empty()) return;
    if (input_.empty() && stream_.can_send()) {
      over_ = true;
      return;
    }
    leave_at_ = SteadyNow() + kFarewell;
    Type(after.substr(1));
  }

  void WriteOutput(short state) {
    if ((state & POLLOUT) == 0) {
      over_ = true;  // the reader is gone
      return;
    }
    const ssize_t count = standard_output_.Write(output_);
    if (count > 0) output_.erase(0, static_cast<size_t>(count));
    if (count < 0 && errno != EINTR && errno != EAGAIN) over_ = true;
  }

  // A line of vmctl's own, also amid a raw terminal.
  void Say(absl::string_view text) {
    terminal_.Leave();
    NoteNow(text);
    terminal_.Enter();
  }

  ConsoleStream& stream_;
  RawTerminal& terminal_;
  const bool is_terminal_ = isatty(STDIN_FILENO) == 1;  // not asked again: it may hang up
  const SharedStream& standard_output_;
  const int signals_;
  const bool follows_;
  const absl::Time attach_by_;
  const int escape_;
  std::string input_;   // not yet sent
  std::string output_;  // not yet written
  bool input_ended_ = false;
  bool farewell_sent_ = false;
  bool over_ = false;
  absl::Time leave_at_ = absl::InfiniteFuture();  // at the latest
  absl::Time quiet_at_ = absl::InfiniteFuture();  // unless something is printed until then
  std::optional<absl::Status> ended_;
};

std::string KeyName(int key) {
  return absl::StrCat("Ctrl-", std::string(1, static_cast<char>(key + '@')));
}

}  // namespace

ExitCode RunConsole(const Invocation& invocation) {
  signal(SIGPIPE, SIG_IGN);
  // The signals that end or stop this program. Blocked before gRPC starts threads.
  const absl::StatusOr<UniqueFd> signals =
      TakeSignals({SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT});
  if (!signals.ok()) return Fail(kRefused, signals.status().message());
  const absl::StatusOr<SharedStream> output = SharedStream::Create(STDOUT_FILENO, O_WRONLY);
  if (!output.ok()) return Fail(kRefused, output.status().message());
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const std::string vm = absl::StrCat("VM \"", client->address().name, "\"");
  // Proves, within the time-out, that the VM answers: a console may be silent.
  const absl::StatusOr<v1::VmStatus> status = client->GetStatus();
  if (!status.ok()) return FailedCall(status.status());
  const bool is_terminal = isatty(STDIN_FILENO) == 1;
  if (is_terminal) {
    NoteNow(absl::StrCat("console of ", vm, "; ",
                         invocation.escape < 0
                             ? "no key leaves it"
                             : absl::StrCat(KeyName(invocation.escape), " leaves")));
  }

  bool left = false;
  absl::Status ended;
  {
    // First of all, so that no key is taken for one of this program's.
    RawTerminal terminal(RawTerminal::Output::kUnchanged);
    absl::StatusOr<std::unique_ptr<ConsoleStream>> stream =
        client->AttachConsole(invocation.argument);
    if (!stream.ok()) return FailedCall(stream.status());
    ConsoleLoop loop(**stream, terminal, *output, signals->get(), invocation.escape,
                     invocation.follow, invocation.timeout);
    loop.Run();
    left = loop.left();
    if (!left) ended = *loop.ended();
  }
  // The cursor may be anywhere in a line.
  if (is_terminal) WriteNow(STDERR_FILENO, "\n");
  if (left) {
    if (is_terminal) NoteNow(absl::StrCat("left the console; ", vm, " continues"));
    return kOk;
  }
  if (!ended.ok() && !absl::IsUnavailable(ended)) return FailedCall(ended);
  NoteNow(absl::StrCat(vm, " has ended"));
  return kOk;
}

}  // namespace bulkhead::vmctl
