#ifndef BULKHEAD_BASE_RESTORE_TERMINAL_H_
#define BULKHEAD_BASE_RESTORE_TERMINAL_H_

#include <termios.h>

namespace bulkhead {

// Gives the terminal `fd` its former mode at once. Not drained (TCSADRAIN): a terminal whose output
// is stopped would take for ever. A process that is in the background by now (SIGSTOP and "bg")
// restores it all the same, rather than being stopped by SIGTTOU. Async-signal-safe.
void RestoreTerminal(int fd, const termios& mode);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_RESTORE_TERMINAL_H_
