#ifndef BULKHEAD_BASE_BLOCKED_SIGNALS_H_
#define BULKHEAD_BASE_BLOCKED_SIGNALS_H_

#include <signal.h>

#include <initializer_list>

namespace bulkhead {

// Blocks the signals of the calling thread while it lives, except those of faults: their handlers
// (a sanitizer, a crash logger) must run. A thread that is started meanwhile inherits the mask for
// its whole life: signals to the process (SIGTERM, SIGCHLD, ...) go to other threads.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS}) {
      sigdelset(&blocked, fault);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_BLOCKED_SIGNALS_H_
