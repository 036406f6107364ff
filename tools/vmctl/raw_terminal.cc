#include "tools/vmctl/raw_terminal.h"

#include <unistd.h>

#include "base/restore_terminal.h"

namespace bulkhead::vmctl {

RawTerminal::RawTerminal() {
  is_terminal_ = isatty(STDIN_FILENO) == 1;
  Enter();
}

void RawTerminal::Leave() {
  if (!raw_) return;
  raw_ = false;
  RestoreTerminal(STDIN_FILENO, saved_);
}

void RawTerminal::Enter() {
  if (!is_terminal_ || raw_ || tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  raw_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

}  // namespace bulkhead::vmctl
