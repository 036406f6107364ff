#include "base/raw_terminal.h"

#include <unistd.h>

#include "base/blocked_signals.h"

namespace bulkhead {

void RawTerminal::Enter() {
  if (raw_ || tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  if (output_ == Output::kProcessed) raw.c_oflag = saved_.c_oflag;
  raw_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void RawTerminal::Leave() {
  RestoreNow();
  raw_ = false;
}

void RawTerminal::RestoreNow() const {
  if (!raw_) return;
  const BlockedSignals blocked;  // SIGTTOU
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
}

}  // namespace bulkhead
