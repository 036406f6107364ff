#include "tools/vmctl/raw_terminal.h"

#include <unistd.h>

namespace bulkhead::vmctl {

RawTerminal::RawTerminal() {
  is_terminal_ = isatty(STDIN_FILENO) == 1;
  Enter();
}

void RawTerminal::Leave() {
  if (!raw_) return;
  raw_ = false;
  // Drained: what the guest printed last still belongs to its mode. A terminal that takes nothing
  // would block that; then the mode still matters more.
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
}

void RawTerminal::Enter() {
  if (!is_terminal_ || raw_ || tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  raw_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

}  // namespace bulkhead::vmctl
