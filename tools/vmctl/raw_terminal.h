#ifndef BULKHEAD_TOOLS_VMCTL_RAW_TERMINAL_H_
#define BULKHEAD_TOOLS_VMCTL_RAW_TERMINAL_H_

#include <termios.h>

namespace bulkhead::vmctl {

// Standard input as the guest's terminal: every key as it is, nothing echoed, and what the guest
// prints unchanged too, since full-screen programs count on that. Does nothing where standard
// input is no terminal. Restores the former mode when it goes. One at a time.
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal() { Leave(); }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  bool is_terminal() const { return is_terminal_; }

  // Before this process stops (SIGTSTP), and once it goes on.
  void Leave();
  void Enter();

 private:
  bool is_terminal_ = false;
  bool raw_ = false;
  termios saved_{};
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_RAW_TERMINAL_H_
