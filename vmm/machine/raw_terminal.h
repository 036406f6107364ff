#ifndef BULKHEAD_VMM_MACHINE_RAW_TERMINAL_H_
#define BULKHEAD_VMM_MACHINE_RAW_TERMINAL_H_

#include <termios.h>

namespace bulkhead::vmm {

// While this lives, a terminal on standard input hands every key to the guest: no echo, no
// lines, no signals by Ctrl-C. Output processing stays, so that log lines come out whole. Does
// nothing where standard input is no terminal. The mode is set here and not by the console's
// device process, because that one may be killed and could not restore it. One at a time.
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  // Restores the mode without waiting for output: for a process that leaves without destructors.
  void RestoreNow() const;

 private:
  bool active_ = false;
  termios saved_{};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_RAW_TERMINAL_H_
