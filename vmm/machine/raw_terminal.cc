#include "vmm/machine/raw_terminal.h"

#include <unistd.h>

namespace bulkhead::vmm {

RawTerminal::RawTerminal() {
  if (tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  raw.c_oflag = saved_.c_oflag;
  active_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void RawTerminal::RestoreNow() const {
  if (active_) tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
}

RawTerminal::~RawTerminal() {
  // Drained: what the guest printed last still belongs to its mode.
  if (active_) tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_);
}

}  // namespace bulkhead::vmm
