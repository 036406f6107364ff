#include "vmm/machine/raw_terminal.h"

#include <unistd.h>

#include "base/restore_terminal.h"

namespace bulkhead::vmm {

RawTerminal::RawTerminal() {
  if (tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  raw.c_oflag = saved_.c_oflag;
  active_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void RawTerminal::RestoreNow() const {
  if (active_) RestoreTerminal(STDIN_FILENO, saved_);
}

RawTerminal::~RawTerminal() { RestoreNow(); }

}  // namespace bulkhead::vmm
