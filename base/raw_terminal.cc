#include "base/raw_terminal.h"

#include <signal.h>
#include <unistd.h>

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
  sigset_t ttou;
  sigset_t before;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &ttou, &before);
  tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace bulkhead
