#include "base/restore_terminal.h"

#include <signal.h>

namespace bulkhead {

void RestoreTerminal(int fd, const termios& mode) {
  sigset_t ttou;
  sigset_t before;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &ttou, &before);
  tcsetattr(fd, TCSANOW, &mode);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace bulkhead
