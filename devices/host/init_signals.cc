#include "devices/host/init_signals.h"

#include <signal.h>
#include <unistd.h>

#include "base/pid_fd.h"

namespace bulkhead::devices {
namespace {

void EndProcess(int signal_number, siginfo_t* info, void*) {
  if (info->si_code > 0) {
    // A fault: the instruction is executed again when this returns, and the kernel does end init
    // for a fault without a handler.
    signal(signal_number, SIG_DFL);
    return;
  }
  _exit(kSignalExitCode + signal_number);
}

}  // namespace

void EndByFatalSignalsAsInit() {
  if (getpid() != 1) return;
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) {
    struct sigaction present = {};
    if (sigaction(signal_number, nullptr, &present) != 0 || present.sa_handler != SIG_DFL) continue;
    struct sigaction action = {};
    action.sa_sigaction = EndProcess;
    action.sa_flags = SA_SIGINFO;
    sigaction(signal_number, &action, nullptr);
  }
}

}  // namespace bulkhead::devices
