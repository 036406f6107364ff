// top.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/raw_terminal.h"
#include "base/shared_stream.h"
#include "base/steady_time.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/json.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/standard_output.h"
#include "tools/vmctl/text.h"
#include "tools/vmctl/top_reader.h"
#include "tools/vmctl/top_sample.h"
#include "tools/vmctl/top_text.h"

namespace bulkhead::vmctl {
namespace {

constexpr size_t kDefaultColumns = 80;
constexpr size_t kDefaultLines = 24;

// Another screen, without a cursor; and back.
constexpr char kEnterScreen[] = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J";
constexpr char kLeaveScreen[] = "\x1b[?25h\x1b[?1049l";

struct Size {
  size_t columns = 0;
  size_t lines = 0;
};

Size TerminalSize() {
  winsize size = {};
  ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
  return {size.ws_col != 0 ? size.ws_col : kDefaultColumns,
          size.ws_row != 0 ? size.ws_row : kDefaultLines};
}

// Waits for a signal in `signals` until `end`. True: one that ends this program has come.
bool WaitForSignal(int signals, absl::Time end) {
  while (true) {
    const timespec left = absl::ToTimespec(std::max(end - SteadyNow(), absl::ZeroDuration()));
    pollfd polled = {.fd = signals, .events = POLLIN, .revents = 0};
    if (ppoll(&polled, 1, &left, nullptr) <= 0) return false;
    signalfd_siginfo info;
    if (read(signals, &info, sizeof(info)) != sizeof(info)) continue;
    if (info.ssi_signo == SIGTSTP) {
      raise(SIGSTOP);
    } else if (info.ssi_signo != SIGWINCH && info.ssi_signo != SIGCONT) {
      return true;
    }
  }
}

std::string PlainText(const TopSample& sample, bool color) {
  const size_t width = OutputWidth();
  const TopLayout layout = {
      .width = width != 0 ? width : kDefaultColumns, .height = 0, .color = color};
  return absl::StrCat(absl::StrJoin(TopLines(sample, layout), "\n"), "\n");
}

// One sample after the other, for scripts.
ExitCode PrintSamples(VmClient& client, const Invocation& invocation, int signals) {
  absl::StatusOr<TopReading> before = ReadTop(client);
  if (!before.ok()) return FailedCall(before.status());
  for (uint64_t i = 0; invocation.count == 0 || i < invocation.count; ++i) {
    if (WaitForSignal(signals, before->steady_time + invocation.interval)) return kOk;
    absl::StatusOr<TopReading> now = ReadTop(client);
    if (!now.ok()) return FailedCall(now.status());
    const TopSample sample = MakeTopSample(*before, *now);
    std::string text = invocation.json ? LineOfJson(sample) : PlainText(sample, OutputHasColor());
    if (!invocation.json && i > 0) text = absl::StrCat("\n", text);
    if (const ExitCode code = Print(text); code != kOk) return code;
    before = std::move(now);
  }
  return kOk;
}

// The live screen.
class Screen {
 public:
  Screen(TopReader& reader, const Invocation& invocation, int signals)
      : reader_(reader),
        interval_(invocation.interval),
        left_(invocation.count),
        counts_(invocation.count != 0),
        signals_(signals),
        color_(OutputHasColor()) {}

  // Returns when the operator leaves, a signal or the count ends it, or the VM does not answer for
  // good.
  absl::Status Run() {
    Show(kEnterScreen);
    Ask();
    while (!over_) {
      Draw();
      Wait();
    }
    Show(kLeaveScreen);
    return ended_;
  }

 private:
  // What a terminal does not take at once is lost: the next screen is a whole one again.
  static void Show(absl::string_view text) { (void)WriteNow(STDOUT_FILENO, text); }

  void Wait() {
    const absl::Time now = SteadyNow();
    // Twice a second at least: it says how long the VM has not answered.
    const absl::Time next = is_asked_ ? now + absl::Milliseconds(500) : ask_again_;
    pollfd polled[] = {{.fd = signals_, .events = POLLIN, .revents = 0},
                       {.fd = reader_.fd(), .events = POLLIN, .revents = 0},
                       {.fd = input_ended_ ? -1 : STDIN_FILENO, .events = POLLIN, .revents = 0}};
    const timespec limit = absl::ToTimespec(std::max(next - now, absl::ZeroDuration()));
    if (ppoll(polled, 3, &limit, nullptr) < 0) return;
    if (polled[0].revents != 0) TakeSignal();
    if (polled[1].revents != 0) TakeReading();
    if (polled[2].revents != 0) TakeKeys();
    if (!over_ && !is_asked_ && SteadyNow() >= ask_again_) {
      Ask();
    }
  }

  void Ask() {
    reader_.Ask();
    is_asked_ = true;
    if (!silent_since_.has_value()) silent_since_ = SteadyNow();
  }

  void TakeSignal() {
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) return;
    if (info.ssi_signo == SIGTSTP) {
      Show(kLeaveScreen);
      terminal_.Leave();
      raise(SIGSTOP);
      terminal_.Enter();
      Show(kEnterScreen);
    } else if (info.ssi_signo == SIGWINCH) {
      Show("\x1b[2J");
    } else if (info.ssi_signo != SIGCONT) {
      over_ = true;
    }
  }

  void TakeReading() {
    std::optional<absl::StatusOr<TopReading>> reading = reader_.Take();
    if (!reading.has_value()) return;
    is_asked_ = false;
    if (!reading->ok()) {
      // A VM that hangs may recover; one that has ended does not.
      if (!absl::IsDeadlineExceeded(reading->status())) {
        ended_ = reading->status();
        over_ = true;
      }
      ask_again_ = SteadyNow() + interval_;
      return;
    }
    silent_since_.reset();
    TopReading now = **std::move(reading);
    // The first sample comes soon: nobody likes an empty screen.
    const bool is_first = !before_.has_value();
    ask_again_ = now.steady_time + (is_first ? std::min(interval_, absl::Seconds(1)) : interval_);
    if (!is_first) {
      sample_ = MakeTopSample(*before_, now);
      over_ = counts_ && --left_ == 0;
      if (over_) Draw();
    }
    before_ = std::move(now);
  }

  void TakeKeys() {
    char keys[64];
    const ssize_t count = read(STDIN_FILENO, keys, sizeof(keys));
    if (count <= 0) {
      input_ended_ = true;
      over_ = over_ || is_terminal_;  // it is gone
      return;
    }
    for (const char key : absl::string_view(keys, static_cast<size_t>(count))) {
      // In raw mode Ctrl-C is a key, too. Of an escape sequence, such as a cursor key's, none.
      if (key == '\x1b') return;
      over_ = over_ || key == 'q' || key == 'Q' || key == '\x03';
      if (key == '\x1a') kill(getpid(), SIGTSTP);
      if (key == ' ' && !is_asked_) ask_again_ = SteadyNow();
    }
  }

  std::string BottomLine(size_t columns) const {
    const absl::Duration silent =
        silent_since_.has_value() ? SteadyNow() - *silent_since_ : absl::ZeroDuration();
    if (silent < absl::Seconds(1)) return Colored(TopLegend(columns), Color::kFaint, color_);
    const std::string text = absl::StrCat("no answer for ", FormatSpan(silent), "; q quits");
    return Colored(text.substr(0, columns), Color::kRed, color_);
  }

  void Draw() {
    const Size size = TerminalSize();
    std::string text = "\x1b[H";
    size_t used = 0;
    if (sample_.has_value() && size.lines > 1) {
      for (const std::string& line :
           TopLines(*sample_, {.width = size.columns, .height = size.lines - 1, .color = color_})) {
        absl::StrAppend(&text, line, "\x1b[K\r\n");
        ++used;
      }
    }
    // Nothing is below; and the last line has no end, which would scroll.
    for (; used + 1 < size.lines; ++used) absl::StrAppend(&text, "\x1b[K\r\n");
    absl::StrAppend(&text, BottomLine(size.columns), "\x1b[K");
    Show(text);
  }

  TopReader& reader_;
  const absl::Duration interval_;
  uint64_t left_;
  const bool counts_;
  const int signals_;
  const bool color_;
  const bool is_terminal_ = isatty(STDIN_FILENO) == 1;
  RawTerminal terminal_{RawTerminal::Output::kUnchanged};
  std::optional<TopReading> before_;
  std::optional<TopSample> sample_;
  bool is_asked_ = false;                   // an answer is due
  std::optional<absl::Time> silent_since_;  // empty: the last question was answered
  absl::Time ask_again_;
  bool input_ended_ = false;
  bool over_ = false;
  absl::Status ended_;
};

}  // namespace

ExitCode RunTop(const Invocation& invocation) {
  signal(SIGPIPE, SIG_IGN);
  // Blocked before gRPC starts threads.
  const absl::StatusOr<UniqueFd> signals =
      TakeSignals({SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH});
  if (!signals.ok()) return Fail(kRefused, signals.status().message());
  ExitCode code = kOk;
  std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const std::string vm = absl::StrCat("VM \"", client->address().name, "\"");
  const bool is_live = isatty(STDOUT_FILENO) == 1 && !invocation.json && invocation.count != 1;
  if (!is_live) return PrintSamples(*client, invocation, signals->get());

  absl::StatusOr<std::unique_ptr<TopReader>> reader = TopReader::Create(std::move(client));
  if (!reader.ok()) return Fail(kRefused, reader.status().message());
  absl::Status ended;
  {
    Screen screen(**reader, invocation, signals->get());
    ended = screen.Run();
  }
  // A reading that is under way may wait for a VM that hangs: it is not waited for.
  if (absl::IsUnavailable(ended)) {
    Note(absl::StrCat(vm, " has ended"));
  } else if (!ended.ok()) {
    code = FailedCall(ended);
  }
  _exit(code);
}

}  // namespace bulkhead::vmctl
