#include "tools/vmctl/raw_terminal.h"

#include <signal.h>
#include <unistd.h>

namespace bulkhead::vmctl {

RawTerminal::RawTerminal() {
  is_terminal_ = isatty(STDIN_FILENO) == 1;
  Enter();
}

void RawTerminal::Leave() {
  if (!raw_) return;
  raw_ = false;
  // Not drained (TCSADRAIN): a terminal whose output is stopped would take for ever. In the
  // background by now (SIGSTOP and "bg"), it is restored all the same, rather than stopped here.
  sigset_t ttou;
  sigset_t before;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &ttou, &before);
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void RawTerminal::Enter() {
  if (!is_terminal_ || raw_ || tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  cfmakeraw(&raw);
  raw_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

}  // namespace bulkhead::vmctl
