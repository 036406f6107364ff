#ifndef BULKHEAD_BASE_RAW_TERMINAL_H_
#define BULKHEAD_BASE_RAW_TERMINAL_H_

#include <termios.h>

namespace bulkhead {

// Keeps a terminal on standard input in raw mode: each key is read at once and unchanged, nothing
// is echoed, and no key raises a signal. Does nothing if standard input is not a terminal. The
// destructor restores the former mode. One at a time. Thread-compatible.
class RawTerminal {
 public:
  enum class Output {
    kProcessed,  // as before: log lines still end in CR LF
    kUnchanged,  // full-screen programs need every byte as it is
  };

  explicit RawTerminal(Output output) : output_(output) { Enter(); }
  ~RawTerminal() { Leave(); }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  // For a process that stops, or that prints a line of its own, and then continues.
  void Leave();
  void Enter();

  // Restores the former mode at once, from any thread: for a process that exits without
  // destructors. Does not wait for output to drain (TCSADRAIN), which takes for ever if the output
  // is stopped. Works in the background too (after SIGSTOP and "bg"), where SIGTTOU would stop the
  // process.
  void RestoreNow() const;

 private:
  const Output output_;
  bool raw_ = false;
  termios saved_{};
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_RAW_TERMINAL_H_
