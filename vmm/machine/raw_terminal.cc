#include "vmm/machine/raw_terminal.h"

#include <signal.h>
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
  if (!active_) return;
  // In the background by now (SIGSTOP and "bg"), it is restored all the same, rather than stopped
  // by SIGTTOU at the end of the VM. Not drained (TCSADRAIN): output is processed as before in
  // either mode, and a line whose flow is stopped would take for ever.
  sigset_t ttou;
  sigset_t before;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &ttou, &before);
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

RawTerminal::~RawTerminal() { RestoreNow(); }

}  // namespace bulkhead::vmm
